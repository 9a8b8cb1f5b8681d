"""Variables of the environment: which of them a file of others may set, and which it may read.

A variable can decide which program runs (GIT_CONFIG_PARAMETERS), which server gets a key
(WANDB_BASE_URL) and hold what nobody else may see. So there are lists of what is harmless, and
nothing else is.
"""

from __future__ import annotations

import re
from typing import Any

from lrexp.config.errors import ConfigError
from lrexp.config.redact import is_secret_name

# What `hydra.job.env_set` may set: how many threads, which devices, which kernels, less network.
SETTABLE = (
    *("OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY"),
    *("MKL_NUM_THREADS", "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "TORCH_NUM_THREADS", "KMP_AFFINITY", "KMP_BLOCKTIME"),
    *("GOMP_CPU_AFFINITY", "TOKENIZERS_PARALLELISM"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "PYTORCH_CUDA_ALLOC_CONF"),
    *("PYTORCH_ENABLE_MPS_FALLBACK", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"),
    *("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
)
# What `${oc.env:NAME}` in a file may read: who and where one is, and what a scheduler says of a job
READABLE = (
    *("HOME", "USER", "LOGNAME", "HOSTNAME", "TMPDIR", "SCRATCH", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_*", "PBS_*", "LSB_*"),
)
_READABLE = re.compile("|".join(name.replace("*", r"\w+") for name in READABLE))
# Interpolations that a file may hold: other settings, and what cannot make text into code.
_OTHERS = re.compile(
    r"\$\{\s*(?:[\w.\[\]@-]*\s*|(?:now|hydra|oc\.select|oc\.dict\.(?:keys|values)|python_version"
    r"|lrexp\.point_name):[^${}]*)\}"
)
_VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:\s*(\w+)\s*(?:,[^${}\\]*)?\}")
# What stands for text that was read, of which `oc.decode` may make a number, and for other text.
_READ, _TEXT = "\x00", "\x01"
_DECODED = re.compile(rf"\$\{{\s*oc\.decode\s*:\s*{_READ}\s*\}}")


def check_settable(key: str, variables: Any) -> None:
    """Refuse names (keys, or a list) of variables to be set that are not all harmless.

    Raises:
        ConfigError: for the first such variable.
    """
    if isinstance(variables, str):  # an interpolation
        raise ConfigError(key, "must be written out", given=variables)
    for name in variables or ():
        at = f"{key}.{name}"
        if is_secret_name(str(name)):
            problem = "holds a secret, which would be saved with the run"
            raise ConfigError(at, problem, "set it in the shell instead")
        if name not in SETTABLE:
            hint = f"set it in the shell; a config may set {', '.join(SETTABLE)}"
            raise ConfigError(at, "is no variable that a config may set", hint)


def check_read(key: str, text: str) -> None:
    """Refuse text of a file that would read a variable of the environment which is not harmless.

    Raises:
        ConfigError: for an interpolation that reads such a one, or that could hide that it does.
    """
    left, before = text, ""
    while left != before:
        before = left
        for name in (found[1] for found in _VARIABLE.finditer(left)):
            if not _READABLE.fullmatch(name) or is_secret_name(name):
                hint = f"type it on the command line; a file may read {', '.join(READABLE)}"
                problem = f"reads the variable {name} of the environment, which no file may"
                raise ConfigError(key, problem, hint, text)
        left = _OTHERS.sub(_TEXT, _DECODED.sub(_TEXT, _VARIABLE.sub(_READ, left)))
    if "${" in left:
        hint = "allowed are other settings, ${now:...}, ${hydra:...}, ${oc.env:HOME}"
        raise ConfigError(key, "is an interpolation that no file may hold", hint, text)
