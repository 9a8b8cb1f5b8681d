"""An exported network needs torch and its own library, and gives the run's scores."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_runs import CLASSES, moved_run, predictions_of, untrained_run, write_pictures
from processes import HUNG_S
from safetensors import safe_open

from lrexp.__main__ import main
from lrexp.config.errors import UserError
from lrexp.models.pretrained import expected_input
from lrexp.use import onnx_file
from lrexp.use.export import FILES, example_text, export
from lrexp.use.network_source import network_source
from lrexp.use.trained import load_trained

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {
    "mlp": ("model=mlp", "model.widths=[6,5]", "model.dropout=0.5"),
    "cifar_resnet": ("model=cifar_resnet", "model.depth=20"),
    "squeezenet": ("model=torchvision", "model.name=squeezenet1_1"),
    "small resnet": ("model=torchvision", "model.name=resnet18", "model.stem=small"),
    "inception": ("model=torchvision", "model.name=inception_v3", "data.image_size=80"),
    "timm": ("model=timm", "model.name=resnet18.a1_in1k"),
    "timm vit": ("model=timm", "model.name=vit_tiny_patch16_224", "model.args.img_size=32"),
    "own": ("model=custom", "model.target=their_net.Net", "model.args.width=4"),
}
SLOW = ("small resnet", "inception", "timm", "timm vit")
THEIR_NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, num_classes, width):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.head = nn.Linear(width, num_classes)
        self.head_again = self.head

    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))
"""


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Files of every kind."""
    write_pictures(tmp_path / "new", each=5)
    return [str(file) for file in sorted((tmp_path / "new").rglob("*.png"))]


@pytest.fixture
def alone() -> Iterator[Any]:
    """A function that runs the example of a folder where lrexp cannot be imported."""
    with pytest.MonkeyPatch.context() as patch:

        def of(folder: Path) -> dict[str, Any]:
            for name in [n for n in sys.modules if f"{n}.".startswith("lrexp.")]:
                patch.setitem(sys.modules, name, None)
            for name in ("images", "network"):
                patch.delitem(sys.modules, name, raising=False)
            patch.syspath_prepend(str(folder))
            with pytest.raises(ImportError):
                __import__("lrexp.data.images")
            return runpy.run_path(str(folder / "example.py"))

        yield of
    for name in ("images", "network"):
        sys.modules.pop(name, None)


def scores_of(run: Path, files: list[str]) -> torch.Tensor:
    trained = load_trained(run, "cpu")
    return trained.scores(trained.transform(files))


def of_example(example: dict[str, Any], files: list[str]) -> torch.Tensor:
    return torch.stack([example["scores"](file) for file in files])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in NETWORKS]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_export_gives_the_same_scores_without_lrexp(
    name: str,
    channels: int,
    compose: Any,
    alone: Any,
    pictures: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "their_net.py").write_text(THEIR_NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "their_net")
    side = 80 if name == "inception" else 32
    run = untrained_run(tmp_path / "run", compose(*NETWORKS[name]), (channels, side, side))
    trained = load_trained(run, "cpu")
    images = trained.transform(pictures)
    own, logits = trained.scores(images), trained.model(images)
    assert len({tuple(row) for row in logits.tolist()}) > 10  # they tell images apart
    done = export(run)
    assert done.folder == run / "exported"
    assert done.apart == 0
    assert torch.allclose(of_example(alone(done.folder), pictures), own, rtol=0, atol=1e-6)


def test_a_trained_run_is_exported_with_all_that_is_known_of_it(
    image_run: Path, alone: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = moved_run(image_run, tmp_path), tmp_path / "classifier"
    rows = predictions_of(run)
    assert main(["export", str(run), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "check  loaded again, its logits are the run's (to the bit)\n" in said
    assert f"try    python {out}/example.py IMAGE\n" in said
    files = {file.name: file for file in out.iterdir()}
    assert set(files) == FILES.keys() - {"model.onnx"}
    for name in ("network.py", "images.py", "example.py"):
        imported = re.findall(r"^\s*(?:from|import) (\w+)", files[name].read_text(), re.MULTILINE)
        assert "lrexp" not in imported
    with safe_open(out / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    about = json.loads(files["config.json"].read_text())
    assert json.loads(metadata["class_names"]) == about["class_names"] == list(CLASSES)
    assert json.loads(metadata["std"]) == about["preprocessing"]["std"]
    code = [line for line in files["example.py"].read_text().splitlines() if line.strip()]
    assert len([line for line in code if not line.startswith(("import", "from", '"'))]) <= 20
    found = of_example(alone(out), list(rows["item"])).numpy()
    assert np.abs(found - np.stack(rows.scores)).max() < 1e-6


def test_a_model_card_has_what_the_report_says(image_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "classifier"
    export(image_run / "run", out)
    card = (out / "README.md").read_text()
    summary = json.loads((image_run / "run/summary.json").read_text())
    assert card.startswith("# smoke: simple\\_cnn on imagefolder\n\nWith lr_policy=uniform, ")
    assert f"on {summary['test']['images']} images never used for any choice." in card
    assert re.search(r"^\| Test accuracy \| [\d.]+ ± [\d.]+ % \| 11 images \|$", card, re.MULTILINE)
    assert "- 3 classes, one label per image: ash, birch, cedar\n" in card
    assert f"config {summary['config_id']}, epoch {summary['best']['epoch']}; lrexp " in card
    assert "- Converted images: grey to RGB 9, palette 6, " in card
    for verdict in summary["verdicts"]:
        assert verdict["message"][1:] in card.replace("\\", "")
    assert "The network sees images of 12×12, RGB." in card
    assert str(image_run) not in card


def test_weights_of_an_export_begin_a_run_with_their_normalisation(
    image_run: Path, compose: Any, tmp_path: Path
) -> None:
    export(image_run / "run", tmp_path / "classifier")
    config = compose(f"model.weights={tmp_path}/classifier/model.safetensors")
    expected = expected_input(config.model)
    how = load_trained(image_run / "run", "cpu").preprocessing
    assert expected is not None
    assert (expected.mean, expected.std) == (how.mean, how.std)


def test_several_labels_are_sigmoids_and_other_channels_are_arrays() -> None:
    assert "[0].sigmoid()" in example_text(3, multi_label=True)
    assert "[0].softmax(0)" in example_text(3, multi_label=False)
    assert "read_image(file, channels, sides)" in example_text(1, multi_label=False)
    assert "read_image(np.load(file), channels, sides)" in example_text(4, multi_label=False)


def test_an_export_replaces_only_an_export(
    image_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mine"
    (out / "photos").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds what no export wrote \(photos\): name another"):
        export(image_run / "run", out, overwrite=True)
    (out / "photos").rmdir()
    export(image_run / "run", out)
    (out / "config.json").write_text("{}")
    with pytest.raises(UserError, match="--overwrite replaces it"):
        export(image_run / "run", out)
    (out / "__pycache__").mkdir()
    export(image_run / "run", out, overwrite=True)
    assert json.loads((out / "config.json").read_text())["class_names"] == list(CLASSES)
    assert not (out / "__pycache__").exists()
    with pytest.raises(UserError, match="there is no folder"):
        export(image_run / "run", tmp_path / "no" / "folder")
    with pytest.raises(UserError, match="/proc cannot be written to"):
        export(image_run / "run", Path("/proc/mine"))
    monkeypatch.chdir(out)
    with pytest.raises(UserError, match="is the folder you are in"):
        export(image_run / "run", Path("."), overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ("network = lambda: nn.Linear(1, 1)\n", "simple_cnn cannot be exported: Error.* loading"),
        (
            "class Net(SimpleCNN):\n"
            "    def forward(self, images):\n        return 2 * super().forward(images)\n"
            "made = network()\nmade.__class__ = Net\nnetwork = lambda: made\n",
            "simple_cnn cannot be exported: made anew its logits differ by [0-9]",
        ),
    ],
)
def test_a_network_that_comes_out_otherwise_is_not_exported(
    spoilt: str, said: str, image_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = network_source(load_trained(image_run / "run", "cpu")) + spoilt
    monkeypatch.setattr("lrexp.use.export.network_source", lambda trained: text)
    with pytest.raises(UserError, match=said):
        export(image_run / "run", tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


def test_a_name_of_several_lines_is_no_code(
    image_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = moved_run(image_run, tmp_path)
    trained = load_trained(run, "cpu")
    trained.config.model = replace(trained.config.model, name='a"""\nraise SystemExit(9)\n"""')
    monkeypatch.setattr("lrexp.use.network_source._of_ours", lambda *_: ["def network(): ..."])
    (tmp_path / "network.py").write_text(network_source(trained))
    assert "network" in runpy.run_path(str(tmp_path / "network.py"))


def test_what_onnx_needs_is_named_where_it_is_missing(
    image_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"--onnx needs onnxruntime.*\n  pip install 'lrexp\[onnx"):
        export(image_run / "run", tmp_path / "out", onnx=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_resnet", "timm vit", "squeezenet"])
def test_onnx_gives_the_logits_of_any_batch(name: str, compose: Any, tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", compose(*NETWORKS[name]), (3, 32, 32))
    done = export(run, onnx=True)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(done.folder / "model.onnx"))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        own = done.trained.model(images)
    (found,) = session.run(None, {"images": images.numpy()})
    assert np.abs(found - own.numpy()).max() < 1e-4 * max(1, own.abs().max())
    assert done.onnx_apart is not None
    trained = load_trained(run, "cpu")
    with torch.no_grad():
        [*trained.model.parameters()][-1].add_(10.0)  # another network than that in the file
    with pytest.raises(UserError, match=r"differs by .* from torch"):
        onnx_file._apart(trained, done.folder / "model.onnx", torch.Generator())


@pytest.mark.slow
def test_the_example_runs_as_it_is(image_run: Path, tmp_path: Path, pictures: list[str]) -> None:
    out = tmp_path / "out"
    export(image_run / "run", out)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked/lrexp.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        [sys.executable, str(out / "example.py"), *pictures[:3]],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "blocked"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )
    assert done.stderr == ""
    own = scores_of(image_run / "run", pictures[:3]).tolist()
    for line, file, scores in zip(done.stdout.splitlines(), pictures, own, strict=False):
        name, *rest = line.split(" ")
        assert name == file
        assert rest == [f"{c}={s:.6f}" for c, s in zip(CLASSES, scores, strict=True)]
    assert len(done.stdout.splitlines()) == 3
