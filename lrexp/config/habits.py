"""What other tools call our settings and options: the one table every such message draws from.

Names are compared without case, `_`, `-` and spaces, so that `--learning-rate` is learningrate.
"""

from __future__ import annotations

import re
import shlex

# Our name ← the names others have for it: timm, Keras, Lightning, Hugging Face, fastai, argparse.
# Those below "seed" are no names of ours: VALUES says what becomes of them.
NAMES = {
    "optimizer.lr": "lr learning_rate rate base_lr init_lr initial_lr lr0 max_lr",
    "optimizer.weight_decay": "wd l2 l2_reg",
    "optimizer.betas": "beta beta1 beta2 opt_betas",
    "optimizer.eps": "epsilon adam_epsilon opt_eps",
    "trainer.epochs": "epoch e n_epochs num_epochs max_epochs num_train_epochs nb_epoch",
    "trainer.max_steps": "steps num_steps max_iter max_iters total_steps iterations",
    "trainer.device": "gpu accelerator cuda",
    "trainer.precision": "amp mixed_precision dtype",
    "trainer.patience": "early_stopping early_stopping_patience early_stop",
    "trainer.clip_grad_norm": "clip_grad grad_clip max_grad_norm gradient_clip_val clipnorm",
    "trainer.accumulate": "accumulate_grad_batches gradient_accumulation_steps grad_accum_steps",
    "trainer.ema": "model_ema model_ema_decay ema_decay use_ema",
    "trainer.compile": "torch_compile torchcompile_backend",
    "trainer.eval_batch_size": "val_batch_size validation_batch_size per_device_eval_batch_size",
    "trainer.monitor": "metric_for_best_model eval_metric",
    "trainer.sync_batchnorm": "sync_bn",
    "data.batch_size": "bs b batch per_device_train_batch_size",
    "data.workers": "num_workers n_workers j dataloader_num_workers",
    "data.image_size": "img_size input_size size resize imgsz",
    "data.val_fraction": "val_split validation_split val_size valid_pct val_pct val_frac",
    "data.test_fraction": "test_split test_size",
    "data.augment": "augmentation aa auto_augment data_augmentation",
    "data.normalize": "normalization",
    "model.weights": "checkpoint ckpt initial_checkpoint ckpt_path pretrained_path",
    "loss.label_smoothing": "smoothing label_smoothing_factor",
    "loss.class_weights": "class_weight",
    "lr_policy.decay": "layer_decay llrd layerwise_decay_rate layerwise_lr_decay",
    "scheduler.warmup": "warmup_ratio warmup_proportion",
    "logger.project": "wandb_project",
    "logger.entity": "wandb_entity",
    "logger.mode": "wandb_mode",
    "hydra.run.dir": "output_dir outdir output out save_dir log_dir default_root_dir results_dir"
    " work_dir",
    "name": "exp_name experiment_name run_name wandb_name",
    "model": "net network arch architecture backbone model_name model_name_or_path a",
    "data": "dataset data_dir data_path data_root dataset_name train_dir",
    "loss": "criterion loss_fn loss_function loss_func",
    "optimizer": "opt optim optim_name",
    "lr_policy": "policy freeze frozen freeze_backbone freeze_encoder linear_probe",
    "scheduler": "sched lr_schedule schedule lr_scheduler lr_scheduler_type",
    "logger": "log wandb use_wandb report_to",
    "experiment": "preset",
    "seed": "random_seed random_state manual_seed seed_everything",
    "seeds": "n_seeds num_seeds",
    "warmup_epochs": "",
    "warmup_steps": "warmup_iters num_warmup_steps",
    "fp16": "half",
    "bf16": "",
    "gpus": "n_gpus num_gpus devices nproc_per_node",
    "pretrained": "use_pretrained is_pretrained",
    "resume": "resume_from_checkpoint resume_training",
    "fast_dev_run": "smoke_test debug",
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
        r"(?:torchvision\.models|torchvision|models)[./:](.+)": (
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
        "linearprobethenfinetune": "lr_policy=lp_ft",
        "bitfit|biasonly": "lr_policy=bias_norm_only",
        "paramgroups|perparameter|custom": "lr_policy=per_layer",
    },
    "scheduler": {
        "cosineannealing|cosineannealinglr|cosinedecay|cosinelr": "scheduler=cosine",
        "cosinewarmup|cosinewithwarmup|warmupcosine": "scheduler=cosine scheduler.warmup=0.1",
        "cosineannealingwarmrestarts|sgdr|cosinewithrestarts": "scheduler=cosine_restarts",
        "onecyclelr|1cycle|fitonecycle": "scheduler=one_cycle",
        "reduceonplateau|reducelronplateau": "scheduler=plateau",
        f"{_NO}|fixed|constantlr|flat": "scheduler=constant",
        "steplr|decay": "scheduler=step",
        "multisteplr": "scheduler=multistep",
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
OURS = {
    plain(name): ours
    for ours, others in NAMES.items()
    for name in (ours, ours.rpartition(".")[2], *others.split())
}


def written(name: str, value: str) -> list[str] | None:
    """The words that a value of others is written as here; None where it is none of them.

    >>> written("seed", "1-3"), written("logger", "false"), written("seed", "3")
    (['-m', 'seed=1,2,3'], ['logger=none'], None)
    """
    for form in (re.sub(r"\s", "", value).casefold(), plain(value)):
        for pattern, words in VALUES.get(name, {}).items():
            if found := re.fullmatch(pattern, form):
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
