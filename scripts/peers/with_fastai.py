"""fastai's Learner over torch's data sets."""

from functools import partial

import job
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper

train, val = job.datasets()
loaders = DataLoaders.from_dsets(
    train, val, bs=job.BATCH, val_bs=job.EVAL_BATCH, num_workers=0, device="cpu"
)
learner = Learner(
    loaders,
    job.network(),
    loss_func=CrossEntropyLossFlat(),
    opt_func=partial(OptimWrapper, opt=torch.optim.SGD, momentum=job.MOMENTUM),
    metrics=accuracy,
)
learner.fit(job.EPOCHS, job.RATE)
