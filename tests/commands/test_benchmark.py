"""The benchmark of policies asks for what its problems and claims say, and reads the outcome."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hydra.types import RunMode
from PIL import Image

from lrexp.build.experiment import build_preview
from lrexp.config.check import check
from lrexp.config.compose import CONFIG_NAME, CheckedLoader, without_hydra
from lrexp.session.hydra import hydra_of

SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    sys.path.insert(0, str(SCRIPTS))
    yield import_module("benchmark_policies")
    sys.path.remove(str(SCRIPTS))


def test_every_claim_is_on_a_policy_that_its_problem_compares(benchmark: Any) -> None:
    folders = (ROOT / "conf/lr_policy", SCRIPTS / "benchmark/lr_policy")
    there = {file.stem for folder in folders for file in folder.glob("*.yaml")}
    for problem in benchmark.PROBLEMS.values():
        assert {"uniform", *problem.policies} <= there
    for claim in benchmark.CLAIMS:
        assert claim.policy in benchmark.PROBLEMS[claim.problem].policies
        assert "https://" in claim.source


@pytest.mark.parametrize(
    ("expected", "word", "outcome"),
    [
        ("better", "better", "reproduced"),
        ("better", "worse", "not reproduced"),
        ("better", "no difference", "not reproduced"),
        ("better", "undecided", "undecided"),
        ("worse", "worse", "reproduced"),
        ("no worse", "no difference", "reproduced"),
        ("no worse", "better", "reproduced"),
        ("no worse", "worse", "not reproduced"),
        ("worse", None, "not run"),
    ],
)
def test_what_becomes_of_a_claim(
    benchmark: Any, expected: Any, word: str | None, outcome: str
) -> None:
    compared = word and SimpleNamespace(word=word)
    conclusion: Any = SimpleNamespace(rows=[SimpleNamespace(name="lp_ft", compared=compared)])
    claim = benchmark.Claim("digits", "lp_ft", expected, "")
    assert benchmark.outcome(claim, conclusion) == outcome
    assert benchmark.outcome(claim, None) == "not run"


def test_the_first_and_the_last_block_are_what_learns(benchmark: Any) -> None:
    resnet = ["model=cifar_resnet", "data=synthetic", "data.num_classes=10"]
    loader, learns = CheckedLoader(str(SCRIPTS / "benchmark")), {}
    with hydra_of(loader):
        for policy in benchmark.BLOCKS:
            asked = [*resnet, f"lr_policy={policy}"]
            composed = loader.load_configuration(CONFIG_NAME, asked, RunMode.RUN)
            plan = build_preview(check(without_hydra(composed))[1]).plan
            learns[policy] = {row.layer for row in plan.rows if not row.frozen}
    assert learns == {"first_block": {0, 1, 2, 3}, "last_block": {7, 8, 9}}


def test_shifted_images_are_the_same_every_time(benchmark: Any) -> None:
    shifted = import_module("make_shifted")
    pixels = np.full((32, 32, 3), 128, np.uint8)
    pixels[:16] = 64
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    for corrupt in shifted.CORRUPTIONS.values():
        first, again = (shifted.corrupted(png.getvalue(), corrupt, 3) for _ in range(2))
        assert first == again != png.getvalue()
    noisy = shifted.corrupted(png.getvalue(), shifted.noise, 3)
    moved = np.asarray(Image.open(io.BytesIO(noisy))) / 255 - pixels / 255
    assert moved.std() == pytest.approx(0.1, rel=0.05)
    grey = shifted.corrupted(png.getvalue(), shifted.contrast, 0)
    assert np.ptp(np.asarray(Image.open(io.BytesIO(grey)))) == pytest.approx(16, abs=1)
