"""A network as ONNX, held against what torch computes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lrexp.config.errors import UserError, first_line
from lrexp.use.trained import Trained

BATCHES = (1, 2, 5)  # that are tried: traced is one of 3
NEAR = 1e-4  # of the largest logit: other kernels sum in another order
HINT = "pip install 'lrexp[onnx]'"


def require_onnx() -> None:
    """Raise a UserError that names what is missing, before any work is done."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--onnx needs {error.name}, which is not installed\n  {HINT}") from error


def write_onnx(trained: Trained, file: Path) -> float:
    """Write the network, images (B, C, H, W) float32 normalised → logits (B, classes), B any.

    Returns:
        The largest difference between logits of onnxruntime and of torch, over several batches.

    Raises:
        UserError: when torch cannot export the network, or what comes out computes something else.
    """
    generator = torch.Generator().manual_seed(0)
    shape, name = trained.preprocessing.image_shape, trained.config.model.name
    model, traced = trained.model, torch.randn(3, *shape, generator=generator)
    try:
        with _in_silence():
            torch.onnx.export(
                model,
                (traced,),
                file,
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever tracing raises of a network that it cannot follow
        raise UserError(f"--onnx: torch cannot export {name}: {first_line(error)}") from error
    return _apart(trained, file, generator)


def _apart(trained: Trained, file: Path, generator: torch.Generator) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    largest = 0.0
    for size in BATCHES:
        images = torch.randn(size, *trained.preprocessing.image_shape, generator=generator)
        with torch.inference_mode():
            own = trained.model(images)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        apart = float((torch.from_numpy(found) - own).abs().max())
        if not apart <= NEAR * max(1.0, float(own.abs().max())):
            name = trained.config.model.name
            raise UserError(f"--onnx: {name} of {size} images differs by {apart:.2g} from torch")
        largest = max(largest, apart)
    return largest


@contextmanager
def _in_silence() -> Iterator[None]:
    """Without the exporter's own notes, which are for whoever writes exporters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
