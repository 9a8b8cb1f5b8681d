"""What other tools call our settings and options: the one table every such message draws from.

Names are compared without case, `_`, `-` and spaces, so that `--learning-rate` is learningrate.
"""

from __future__ import annotations

import re
import shlex

# Our name ← the names others have for it: timm, Keras, Lightning, Hugging Face, fastai, argparse.
# Those below "seed" are no names of ours: VALUES says what becomes of them.
NAMES = {
    "optimizer.lr": "lr learningrate rate baselr initlr initiallr lr0 maxlr",
    "optimizer.weight_decay": "wd weightdecay l2 l2reg",
    "optimizer.betas": "beta beta1 beta2 optbetas",
    "optimizer.eps": "epsilon adamepsilon opteps",
    "trainer.epochs": "epoch e nepochs numepochs maxepochs numtrainepochs totalepochs nbepoch",
    "trainer.max_steps": "steps numsteps maxiter maxiters totalsteps iterations",
    "trainer.device": "gpu accelerator cuda",
    "trainer.precision": "amp mixedprecision dtype",
    "trainer.patience": "earlystopping earlystoppingpatience earlystop",
    "trainer.clip_grad_norm": "clipgrad gradclip maxgradnorm gradientclipval clipnorm",
    "trainer.accumulate": "accumulategradbatches gradientaccumulationsteps gradaccumsteps",
    "trainer.ema": "modelema modelemadecay emadecay useema",
    "trainer.compile": "torchcompile torchcompilebackend",
    "trainer.eval_batch_size": "valbatchsize validationbatchsize perdeviceevalbatchsize",
    "trainer.monitor": "metricforbestmodel evalmetric",
    "trainer.sync_batchnorm": "syncbn",
    "data.batch_size": "bs b batch perdevicetrainbatchsize",
    "data.workers": "numworkers nworkers j dataloadernumworkers",
    "data.image_size": "imgsize inputsize size resize imgsz",
    "data.val_fraction": "valsplit validationsplit valsize validpct valpct valfrac",
    "data.test_fraction": "testsplit testsize",
    "data.augment": "augmentation aa autoaugment dataaugmentation",
    "data.normalize": "normalization",
    "model.weights": "checkpoint ckpt initialcheckpoint ckptpath pretrainedpath",
    "loss.label_smoothing": "smoothing labelsmoothingfactor",
    "loss.class_weights": "classweight",
    "lr_policy.decay": "layerdecay llrd layerwisedecayrate layerwiselrdecay",
    "scheduler.warmup": "warmupratio warmupproportion",
    "logger.project": "wandbproject",
    "logger.entity": "wandbentity",
    "logger.mode": "wandbmode",
    "hydra.run.dir": "outputdir outdir output out savedir logdir defaultrootdir resultsdir workdir",
    "name": "expname experimentname runname wandbname",
    "model": "net network arch architecture backbone modelname modelnameorpath a",
    "data": "dataset datadir datapath dataroot datasetname traindir",
    "loss": "criterion lossfn lossfunction lossfunc",
    "optimizer": "opt optim optimname",
    "lr_policy": "policy freeze frozen freezebackbone freezeencoder linearprobe",
    "scheduler": "sched lrschedule schedule lrscheduler lrschedulertype",
    "logger": "log wandb usewandb reportto",
    "experiment": "preset",
    "seed": "randomseed randomstate manualseed seedeverything",
    "seeds": "nseeds numseeds",
    "warmup_epochs": "",
    "warmup_steps": "warmupiters numwarmupsteps",
    "fp16": "half",
    "bf16": "",
    "gpus": "ngpus numgpus devices nprocpernode",
    "pretrained": "usepretrained ispretrained",
    "resume": "resumefromcheckpoint resumetraining",
    "fast_dev_run": "smoketest debug",
}

_YES, _NO = "true|yes|on|1", "false|no|off|0|none|null"
# Name → values that others give it → what is written here. {} is the value, {1} what the first
# group matched, {1-2} the whole numbers between two groups; an empty one is left out. A value is
# matched as it is typed, and without case, `_` and `-`. Of a name of ours, none is a value of ours.
VALUES: dict[str, dict[str, str]] = {
    "optimizer.lr": {
        r"slice\(([^,()]+),([^,()]+)\)": "lr_policy=discriminative lr_policy.lr_low={1}"
        " optimizer.lr={2}",
        r"slice\(([^,()]+)\)": "lr_policy=per_layer optimizer.lr={1}",
    },
    "seed": {
        r"\[?(\d+)(?:-|:|\.\.+)(\d+)\]?": "-m seed={1-2}",
        r"\[(\d+(?:,\d+)+)\]": "-m seed={1}",
    },
    "seeds": {
        r"(\d+)": "-m seed={0-1}",
        r"\[?(\d+)(?:-|:|\.\.+)(\d+)\]?": "-m seed={1-2}",
        r"\[?(\d+(?:,\d+)+)\]?": "-m seed={1}",
    },
    "trainer.device": {
        "gpu|true|yes|on": "trainer.device=cuda",
        r"(?:gpu:?)?(\d+)": "trainer.device=cuda:{1}",
        "false|no|off|none": "trainer.device=cpu",
    },
    "gpus": {
        "0|none": "trainer.device=cpu",
        "1|auto|-1|true": "trainer.device=cuda",
        r"(\d+)": "--nproc_per_node={1}",
    },
    "trainer.precision": {
        "bf16mixed|bf16true|bfloat16|true": "trainer.precision=bf16",
        "16|16mixed|16true|float16|half": "trainer.precision=fp16",
        "32|32true|float32|full|false|no|none": "trainer.precision=fp32",
    },
    "fp16": {_YES: "trainer.precision=fp16", _NO: ""},
    "bf16": {_YES: "trainer.precision=bf16", _NO: ""},
    "trainer.patience": {"true": "trainer.patience=5", "false|none": "trainer.patience=null"},
    "trainer.ema": {"true": "trainer.ema=0.999", "false|none": "trainer.ema=null"},
    "trainer.compile": {
        "true|inductor": "trainer.compile=default",
        "false": "trainer.compile=none",
    },
    "trainer.monitor": {
        r"(?:val|valid|eval|validation)[_/ ]?(loss|accuracy)": "trainer.monitor=val/{1}",
        r"(?:val|valid|eval|validation)?[_/ ]?acc(?:uracy)?": "trainer.monitor=val/accuracy",
        "loss": "trainer.monitor=val/loss",
    },
    "data.augment": {
        "true|yes|flip|crop|default": "data.augment=basic",
        "false": "data.augment=none",
        "trivialaugment(wide)?|autoaugment|rand.*": "data.augment=trivial",
    },
    "data.normalize": {
        "true": "data.normalize=auto",
        "imagenet1k|imagenetdefault|default": "data.normalize=imagenet",
    },
    "pretrained": {_YES: "model.pretrained=true", _NO: "", ".*": "model.weights={}"},
    "scheduler.warmup": {
        r"([1-9]\d?)(?:ep?)?": "'scheduler.warmup={1} epochs'",
        r"(\d{3,})": "'scheduler.warmup={1} steps'",
    },
    "warmup_epochs": {r"(\d+)": "'scheduler.warmup={1} epochs'"},
    "warmup_steps": {r"(\d+)": "'scheduler.warmup={1} steps'"},
    "resume": {
        _NO: "",
        "auto|never": "trainer.resume={}",
        f"{_YES}|latest": "rerun latest --resume",
    },
    "fast_dev_run": {_YES: "trainer=smoke", _NO: ""},
    "model": {
        r"resnet(20|32|44|56)": "model=cifar_resnet model.depth={1}",
        "resnet": "model=resnet18",
        "vit|visiontransformer|vitbase|vitb": "model=vit_b_16",
        "efficientnet": "model=efficientnet_b0",
        "convnext": "model=convnext_tiny",
        "mobilenet|mobilenetv3": "model=mobilenet_v3_small",
        "squeezenet": "model=squeezenet1_1",
        "swin|swint|swintransformer": "model=swin_t",
        "cnn|convnet|lenet": "model=simple_cnn",
        "linear|fc|perceptron": "model=mlp",
        r"timm[/:](.+)": "model=timm model.name={1}",
        r"hf[-_]hub:timm/(.+)": "model=timm model.name={1}",
        r"(?:torchvision|torchvision\.models|models)[./:](.+)": (
            "model=torchvision model.name={1}"
        ),
    },
    "data": {
        "cifar": "data=cifar10",
        "fmnist|fashion": "data=fashion_mnist",
        "imagenet|imagenet1k|ilsvrc2012": "data=hf data.path=ILSVRC/imagenet-1k",
        "fake|random|dummy": "data=synthetic",
    },
    "loss": {
        "ce|crossentropyloss|nll(loss)?|(sparse)?categoricalcrossentropy": "loss=cross_entropy",
        "bceloss|bcewithlogits|bcewithlogitsloss|binarycrossentropy": "loss=bce",
    },
    "optimizer": {
        "momentum|nesterov|sgdmomentum": "optimizer=sgd",
        "adamwtorch|adamwhf|adamwtorchfused|fusedadamw": "optimizer=adamw",
        "schedulefree": "optimizer=schedulefree_adamw",
    },
    "lr_policy": {
        f"{_YES}|frozen|freeze|linearprob(e|ing)|featureextraction|headonly": (
            "lr_policy=freeze_backbone"
        ),
        f"{_NO}|constant|full|finetune|finetuning|fullfinetuning|same": "lr_policy=uniform",
        "llrd|layerdecay|layerwise|layerwiselrdecay": "lr_policy=layerwise_decay",
        "discriminativelr|discriminativelrs|differential|slice": "lr_policy=discriminative",
        "gradualunfreezing|unfreeze|progressiveunfreezing": "lr_policy=gradual_unfreeze",
        "lpft|linearprobethenfinetune": "lr_policy=lp_ft",
        "bitfit|biasonly": "lr_policy=bias_norm_only",
        "paramgroups|perparameter|custom": "lr_policy=per_layer",
    },
    "scheduler": {
        "cosineannealing|cosineannealinglr|cosinedecay|cosinelr": "scheduler=cosine",
        "cosinewarmup|cosinewithwarmup|warmupcosine": "scheduler=cosine scheduler.warmup=0.1",
        "cosineannealingwarmrestarts|sgdr|cosinewithrestarts": "scheduler=cosine_restarts",
        "onecycle|onecyclelr|1cycle|fitonecycle": "scheduler=one_cycle",
        "reduceonplateau|reducelronplateau": "scheduler=plateau",
        f"{_NO}|fixed|constantlr|flat": "scheduler=constant",
        "steplr|decay": "scheduler=step",
        "exponentiallr|exp|exponentialdecay": "scheduler=exponential",
        "poly|polynomiallr|polynomialdecay": "scheduler=polynomial",
        "linearlr|lineardecay": "scheduler=linear",
        "warmupstabledecay|trapezoidal": "scheduler=wsd",
        "stlr": "scheduler=slanted_triangular",
    },
    "logger": {
        _NO: "logger=none",
        f"{_YES}|all": "logger=wandb",
        "(offline|online|disabled)": "logger.mode={1}",
    },
    "task": {
        "lrfind|lrfinder|findlr|lrrangetest": "task=range_test",
        "dryrun|preview": "task=plan",
        "fit": "task=train",
    },
}


def plain(name: str) -> str:
    """A name without what people spell in several ways: case, `_`, `-`, spaces.

    >>> plain("--Learning_rate")
    'learningrate'
    """
    return re.sub(r"[_\-\s]", "", name).casefold()


# What others call something → our name of it.
OURS = {other: ours for ours, others in NAMES.items() for other in (plain(ours), *others.split())}


def written(name: str, value: str) -> list[str] | None:
    """The words that a value of others is written as here; None where it is none of them.

    >>> written("seed", "1-3"), written("logger", "false"), written("seed", "3")
    (['-m', 'seed=1,2,3'], ['logger=none'], None)
    """
    forms = (re.sub(r"\s", "", value).casefold(), plain(value))
    for pattern, words in VALUES.get(name, {}).items():
        if found := next((m for form in forms if (m := re.fullmatch(pattern, form))), None):
            return [_filled(word, value, found) for word in shlex.split(words)]
    return None


def _filled(word: str, value: str, found: re.Match[str]) -> str:
    """A word of the table with what was found."""
    if counted := re.search(r"\{(\d)-(\d)\}", word):
        one, other = int(counted[1]), int(counted[2])
        first, last = (int(found[one]), int(found[other])) if one else (0, int(found[1]) - 1)
        return word.replace(counted[0], _counted(*sorted((first, last))))
    return re.sub(r"\{(\d?)\}", lambda place: found[int(place[1])] if place[1] else value, word)


def _counted(first: int, last: int, most: int = 20) -> str:
    """Whole numbers from one to another: listed, or where they are many as Hydra counts them."""
    if last - first >= most:
        return f"range({first},{last + 1})"
    return ",".join(map(str, range(first, last + 1)))
