"""The report of a sweep: what it says, that it works for every kind of sweep, in a real browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import time
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import POLICIES, add_predictions, large_sweep, outcome, went_wrong, write_sweep

from lrexp.__main__ import main
from lrexp.report.figure import policy_place
from lrexp.report.sweep.exploration import explore
from lrexp.report.sweep.figures import rate_figures, write_sweep_plots
from lrexp.report.sweep.headline import headline
from lrexp.report.sweep.page import write_sweep_report
from lrexp.runs.sweep import read_sweep

RATES = (0.01, 0.03, 0.1, 0.3)


def bowl(chosen: dict[str, Any]) -> dict[str, Any]:
    """Best at 0.03 (uniform) and 0.3 (freeze_backbone); the largest rate of uniform diverges."""
    lr, seed = chosen["optimizer.lr"], chosen["seed"]
    if chosen["lr_policy"] == "uniform":
        if lr == 0.3:
            return went_wrong("diverged")
        return outcome({0.01: 0.5, 0.03: 0.2, 0.1: 0.3}[lr] + 0.01 * seed)
    return outcome(0.9 - lr + 0.01 * seed)


AXES = {"lr_policy": ("uniform", "freeze_backbone"), "optimizer.lr": RATES, "seed": (0, 1, 2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "a sweep", AXES, bowl)


def text_of(page: str) -> str:
    """What a reader sees, without scripts and styles."""
    page = re.sub(r"<(script|style).*?</\1>|<wbr>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))).replace("\u00a0", " ")


def said(folder: Path) -> str:
    return text_of(write_sweep_report(folder).read_text("utf-8"))


def test_what_points_were_told_is_listed_once_with_the_points_concerned(tmp_path: Path) -> None:
    late = "2 tensors would first train after the last epoch and stay frozen: conv.weight, ..."

    def told(chosen: dict[str, Any]) -> dict[str, Any]:
        mine = [late] if chosen["lr_policy"] == "gradual_unfreeze" else []
        return outcome(0.5, remarks=["the images are grey", *mine])

    axes = {"lr_policy": ("uniform", "gradual_unfreeze"), "optimizer.lr": (0.01, 0.1)}
    folder = write_sweep(tmp_path / "sweep", axes, told)
    assert [point.remarks[1:] for point in read_sweep(folder).points] == [(), (), (late,), (late,)]
    assert f"the images are grey all {late} 2 3 How it was made" in said(folder)
    quiet = write_sweep(tmp_path / "quiet", axes, lambda chosen: outcome(0.5))
    assert "Remarks" not in said(quiet)


def title_and_text(folder: Path) -> tuple[str, str]:
    found = headline(explore(read_sweep(folder)))
    return found.title, found.text


# ---- words


def wide_bowl(chosen: dict[str, Any]) -> dict[str, Any]:
    """Both policies are best at 0.03, within their rates; freeze_backbone is worse by 0.4."""
    worse = 0.4 if chosen["lr_policy"] == "freeze_backbone" else 0.0
    far = {0.01: 0.3, 0.03: 0.0, 0.1: 0.1, 0.3: 0.5}[chosen["optimizer.lr"]]
    return outcome(0.2 + worse + far + 0.01 * chosen["seed"], test={"accuracy": 0.8 - worse / 2})


def level(chosen: dict[str, str]) -> list[float]:
    return [0.0] * 20


def test_the_headline_names_the_best_and_who_is_behind_but_no_number(tmp_path: Path) -> None:
    add_predictions(write_sweep(tmp_path, AXES, wide_bowl), level)
    title, text = title_and_text(tmp_path)
    assert title == (
        "Exploratory: uniform at lr 0.03 has the lowest val/loss; freeze_backbone at lr 0.03 is"
        " behind"
    )
    assert text.startswith(
        "It is 0.400 lower than the next policy, freeze_backbone at lr 0.03 (3 seeds and 20 images"
        " in pairs; 95 % interval over all comparisons 0.40 to 0.40): more than seeds and images"
        " explain."
    )
    assert "Its val/loss 0.2100 ± 0.0058 over 3 seeds is the best of 8 by the same numbers" in text
    assert "Three seeds are for choosing rates, not for a verdict: lrexp confirm" in text
    assert "All 24 points finished." in text
    assert "behind 0.03 yes" in said(tmp_path)


def test_what_images_could_make_is_no_claim_and_more_of_them_are_asked_for(tmp_path: Path) -> None:
    write_sweep(tmp_path, AXES, wide_bowl)

    def spread(chosen: dict[str, str]) -> list[float]:
        """Half of the images are much harder once the backbone is frozen."""
        return [0.55 * (-1) ** i if chosen["lr_policy"] == "freeze_backbone" else 0.0
                for i in range(4)]  # fmt: skip

    add_predictions(tmp_path, spread)
    title, text = title_and_text(tmp_path)
    assert title.endswith("has the lowest val/loss; no other policy is shown to be behind")
    assert "0.40 ± 0.32 lower than the next policy" in text
    assert (
        "No number of seeds tells a difference of 0.40 on these 4 images: it takes at least" in text
    )


def test_images_that_come_in_groups_count_as_groups(tmp_path: Path) -> None:
    write_sweep(tmp_path, AXES, wide_bowl)

    def by_halves(chosen: dict[str, str]) -> list[float]:
        """Once the backbone is frozen half of the images are harder, and the others easier."""
        apart = 0.3 if chosen["lr_policy"] == "freeze_backbone" else 0.0
        return [apart] * 20 + [-apart] * 20

    add_predictions(tmp_path, by_halves)
    assert title_and_text(tmp_path)[0].endswith("freeze_backbone at lr 0.03 is behind")
    add_predictions(tmp_path, by_halves, groups=[i // 10 for i in range(40)])
    assert title_and_text(tmp_path)[0].endswith("no other policy is shown to be behind")


def test_without_predictions_nothing_is_claimed_and_that_is_said(tmp_path: Path) -> None:
    write_sweep(tmp_path, AXES, wide_bowl)
    title, text = title_and_text(tmp_path)
    assert title.endswith("no other policy is shown to be behind")
    assert "no claim: the images' error is not known." in text
    assert "How far the images decide is not known" in text
    assert "images unknown" in said(tmp_path)
    add_predictions(tmp_path, level)
    run = next(tmp_path.glob("*freeze_backbone*0.03_seed_0"))
    told = json.loads((run / "summary.json").read_text())
    told["best"]["val/loss"] += 0.01
    (run / "summary.json").write_text(json.dumps(told))
    assert "no claim: the images" in title_and_text(tmp_path)[1], "predictions of other weights"


def test_an_untuned_policy_is_named_with_the_rate_to_add(folder: Path) -> None:
    add_predictions(folder, level)
    title, text = title_and_text(folder)
    assert title.endswith("no other policy is shown to be behind")
    assert "no claim: not both are tuned." in text
    assert (
        "Not tuned, so nothing is claimed of: freeze_backbone, best at its highest rate (add"
        " optimizer.lr=0.9)." in text
    )
    assert "no: add 0.9" in said(folder)


def test_two_seeds_claim_nothing_and_a_loser_on_test_is_named_at_once(tmp_path: Path) -> None:
    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        found = wide_bowl(chosen)
        frozen = chosen["lr_policy"] == "freeze_backbone"
        return found | {"test": {"accuracy": 0.94 if frozen else 0.90, "loss": 0.3}}

    axes = AXES | {"seed": (0, 1)}
    add_predictions(write_sweep(tmp_path, axes, result), level)
    title, text = title_and_text(tmp_path)
    assert title == (
        "Exploratory: uniform at lr 0.03 has the lowest val/loss but not the best test accuracy;"
        " no other policy is shown to be behind"
    )
    assert "two seeds claim nothing." in text
    assert "freeze_backbone at lr 0.03 is ahead by test accuracy (94.0 ± 0.0 % against" in text
    assert "Its test accuracy" not in text


def judged(loss: float, *kinds: str, **more: Any) -> dict[str, Any]:
    return outcome(loss, verdicts=[{"kind": kind} for kind in kinds], **more)


def test_the_headline_says_test_result_and_whether_the_winner_overfits(tmp_path: Path) -> None:
    kinds = {0: ("overfitting",), 1: ("overconfident", "frozen_random"), 2: ()}
    tests = {0: 0.7, 1: 0.8, 2: 0.9}

    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        seed = chosen["seed"]
        mine = kinds[seed] if chosen["lr_policy"] == "a" else ()
        loss = 0.3 if chosen["lr_policy"] == "a" else 0.5
        return judged(loss, *mine, test={"accuracy": tests[seed]})

    write_sweep(tmp_path, {"lr_policy": "ab", "seed": range(3)}, result)
    _, text = title_and_text(tmp_path)
    assert "Its test accuracy is 80.0 ± 5.8 % over 3 seeds; nothing was chosen by it." in text
    assert "By their last epoch, of its 3 runs 1 overfit, 1 grew overconfident." in text
    assert "All 6 points finished. By their last epoch 1 overfit, 1 grew overconfident." in text


@pytest.mark.parametrize(
    ("kinds", "test", "said", "unsaid"),
    [
        ((), {"accuracy": 0.5}, "Its test accuracy is 50.0 %; nothing was chosen by it. It was not"
         " found to overfit.", "over 1"),
        (("deteriorated",), {}, "By its last epoch it got worse on training images too.", "Its t"),
        (("unstable", "too_slow"), {}, "it grew unstable and learned too slowly. It"
         " was not found to overfit.", "Its t"),
        (("collapsed",), {"accuracy": float("nan")}, "it collapsed. It was not found to overfit.",
         "Its test"),
    ],
)  # fmt: skip
def test_a_winner_of_one_run_is_spoken_of_alone(
    tmp_path: Path, kinds: tuple[str, ...], test: dict[str, float], said: str, unsaid: str
) -> None:
    results = {"a": judged(0.1, *kinds, test=test), "b": outcome(0.5)}
    write_sweep(tmp_path, {"lr_policy": "ab"}, lambda c: results[c["lr_policy"]])
    _, text = title_and_text(tmp_path)
    assert said in text
    assert unsaid not in text


BAD: dict[str, tuple[Any, str, str]] = {
    "all": (lambda c: went_wrong("diverged") if c["seed"] else judged(2.3, "collapsed"),
            "No winner: 2 diverged, 2 collapsed", "lower optimizer.lr ten times (0.5 is the"),
    "still": (lambda c: None if c["seed"] else judged(2.3, "learned_nothing"),
              "No winner: 2 learned nothing, 2 without a result",
              "ten times higher and lower (tried: 0.5 to 5)"),
    "guess": (lambda c: judged(2.3, "best_guesses"), "No winner: 4 kept at a guess",
              "choose by another trainer.monitor"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_where_nothing_is_worth_choosing_there_is_no_winner_but_advice(
    tmp_path: Path, case: str
) -> None:
    result, title, advice = BAD[case]
    write_sweep(tmp_path, {"optimizer.lr": (0.5, 5.0), "seed": (0, 1)}, result)
    found, text = title_and_text(tmp_path)
    assert found == title
    assert text.startswith("What may help: ")
    assert advice in text
    page = write_sweep_report(tmp_path).read_text("utf-8")
    assert 'class="best"' not in page
    assert '"shape":"ring"' not in page
    assert "rings" not in text_of(page)


def test_one_run_that_came_to_something_makes_a_winner(tmp_path: Path) -> None:
    good = {(0.5, 0): judged(0.4, "overfitting")}
    write_sweep(
        tmp_path,
        {"optimizer.lr": (0.5, 5.0), "seed": (0, 1)},
        lambda c: good.get((c["optimizer.lr"], c["seed"]), went_wrong("diverged")),
    )
    assert title_and_text(tmp_path)[0] == (
        "Exploratory: uniform at lr 0.5, the only configuration that finished"
    )
    assert '"shape":"ring"' in write_sweep_report(tmp_path).read_text("utf-8")


def specs(folder: Path) -> list[dict[str, Any]]:
    page = write_sweep_report(folder).read_text("utf-8")
    return list(map(json.loads, re.findall('<script type="application/json">(.*?)</script>', page)))


def test_a_policy_has_one_colour_wherever_it_stands_and_whatever_its_rank(tmp_path: Path) -> None:
    from lrexp.config.schema import OPTIONS

    registered = list(OPTIONS["lr_policy"])
    assert registered[:12] == [
        "uniform", "per_layer", "layerwise_decay", "freeze_backbone", "discriminative", "ulmfit",
        "gradual_unfreeze", "lp_ft", "surgical", "auto_rgn", "freezeout", "bias_norm_only",
    ], "a new policy comes last: its place is its colour"  # fmt: skip
    assert len({(policy_place(p) % 8, (policy_place(p) + policy_place(p) // 8) % 6)
                for p in registered}) == len(registered)  # fmt: skip
    worth = {"ulmfit": 0.5, "uniform": 0.6, "my_own": 0.7}
    for place, policies in enumerate((("uniform", "my_own"), ("my_own", "ulmfit", "uniform"))):
        for sign in (1, -1):
            folder = tmp_path / f"{place}{sign}"
            axes = {"lr_policy": policies, "optimizer.lr": (0.1, 0.2)}
            write_sweep(folder, axes, lambda c, s=sign: outcome(1 + s * worth[c["lr_policy"]]))
            rates, _, *curves = specs(folder)
            drawn = {one["name"]: one["colour"] for one in rates["series"]}
            drawn |= {f"{c['title']}*": c["series"][0]["colour"] for c in curves if "series" in c}
            for name, colour in drawn.items():
                assert colour == policy_place(name.removesuffix("*")) % 8
            styles = {(one["colour"], one["marker"]) for one in rates["series"]}
            assert len(styles) == len(policies)
    assert policy_place("my_own") == zlib.crc32(b"my_own") % 1000, "no hash of one session"


def test_a_second_model_is_a_line_with_a_name_and_a_chart_of_its_own(tmp_path: Path) -> None:
    axes = {"model": ("cnn", "mlp"), "lr_policy": ("uniform", "lp_ft"), "optimizer.lr": (0.1, 0.2),
            "optimizer.weight_decay": (0.0, 0.1)}  # fmt: skip
    worse = {"cnn": 0.0, "mlp": 0.2, "uniform": 0.0, "lp_ft": 0.1}
    write_sweep(tmp_path, axes, lambda c: outcome(
        0.5 + worse[c["model"]] + worse[c["lr_policy"]] + c["optimizer.weight_decay"]
    ))  # fmt: skip
    rates, *others = specs(tmp_path)
    names = ["uniform · cnn", "lp_ft · cnn", "uniform · mlp", "lp_ft · mlp"]
    leads = [one for one in rates["series"] if not one.get("faint") and not one.get("shape")]
    assert {one["name"] for one in leads} == set(names)
    assert {one["name"] for one in rates["series"] if one.get("faint")} == set(names), "numbers"
    styles = {one["name"]: (one["colour"], one["dash"], one["marker"]) for one in leads}
    assert styles["uniform · cnn"][0] == styles["uniform · mlp"][0]
    assert len(set(styles.values())) == 4
    assert [one["title"] for one in others if one["kind"] == "xy" and one["compact"]] == names


def test_a_difference_that_seeds_could_make_is_not_told_apart(tmp_path: Path) -> None:
    values = {"a": (0.1, 0.5, 0.3), "b": (0.4, 0.3, 0.6)}
    axes = {"lr_policy": "ab", "seed": (0, 1, 2)}
    write_sweep(tmp_path, axes, lambda c: outcome(values[c["lr_policy"]][c["seed"]]))
    title, text = title_and_text(tmp_path)
    assert title.startswith("Exploratory: a has the lowest val/loss;"), "no rate where all have one"
    assert text.startswith(
        "It is 0.13 ± 0.17 lower than the next policy, b (3 seeds in pairs; 95 %"
    )
    assert "): not told apart." in text
    assert re.search(r"About \d+ more seeds would tell a difference of 0.13\.", text)


def test_accuracies_are_in_percent_and_points(tmp_path: Path) -> None:
    losses = {"a": 0.4, "b": 0.8}
    write_sweep(tmp_path, {"lr_policy": "ab"}, lambda c: outcome(losses[c["lr_policy"]]),
                monitor="val/accuracy")  # fmt: skip
    title, text = title_and_text(tmp_path)
    assert title.startswith("Exploratory: a has the highest val/accuracy;")
    assert "10.0 points higher than the next policy, b; with one seed nothing tells" in text
    assert "One seed is for choosing rates, not for a verdict" in text


@pytest.mark.parametrize(
    ("result", "title"),
    [
        (lambda c: None, "No point has finished"),
        (lambda c: went_wrong("failed", "E: x"), "No point has finished"),
        (lambda c: outcome(0.5), "Exploratory: uniform, the only configuration"),
    ],
)
def test_a_single_point_has_a_page(tmp_path: Path, result: Any, title: str) -> None:
    write_sweep(tmp_path, {"optimizer.lr": (0.1,)}, result)
    assert title_and_text(tmp_path)[0] == title
    assert title in said(tmp_path)


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    assert "No point has been run" in said(tmp_path)


def test_the_policy_table_says_where_the_best_rate_lies(folder: Path) -> None:
    page = said(folder)
    row = page[page.index("every policy at its best") :]
    uniform, frozen = row.index("uniform"), row.index("freeze_backbone")
    assert "0.03 yes" in row[uniform:frozen]
    assert "0.3 no: add 0.9" in row[frozen : row.index("Leaderboard")]


def test_what_went_wrong_is_listed_with_its_reason(tmp_path: Path) -> None:
    def result(chosen: dict[str, Any]) -> dict[str, Any] | None:
        kinds = [outcome(1.0), went_wrong("failed", "OSError: <disk> full\nmore"), None,
                 went_wrong("diverged"), went_wrong("running")]  # fmt: skip
        return kinds[chosen["seed"]]

    write_sweep(tmp_path, {"seed": range(5)}, result)
    page = write_sweep_report(tmp_path).read_text("utf-8")
    assert "OSError: &lt;disk&gt; full" in page
    assert "more</span>" not in page
    text = text_of(page)
    assert "1 never started: 2 seed=2." in text
    assert "diverged after 3 epochs" in text
    assert "running, or killed after 3 epochs" in text
    assert "3 points have no result. To run what is missing:" in text
    assert "lrexp -m hydra.launcher.resume=" in text
    assert "The command that made it: lrexp -m seed=0,1,2,3,4" in text


@pytest.mark.parametrize(("members", "took"), [(4, "8 s"), (1, "26 s")])
def test_time_of_points_that_trained_together_counts_once(
    tmp_path: Path, members: int, took: str
) -> None:
    timings = {"startup_s": 0.5, "train_s": 6.0, "total_s": 6.5}
    made = outcome(0.5, timings=timings, members=members)
    write_sweep(tmp_path, {"seed": range(4)}, lambda c: made)
    assert f"took {took} summed over the points" in said(tmp_path)


def test_damage_costs_the_point_and_not_the_page(folder: Path) -> None:
    runs = sorted(p for p in folder.iterdir() if p.is_dir())
    (runs[0] / "summary.json").write_bytes(b"\xff\xfe\x00")
    (runs[1] / "summary.json").unlink()
    (runs[1] / "metrics.jsonl").write_bytes(b"\x00\x01")
    shutil.rmtree(runs[2])
    (folder / "leaderboard.json").write_text('{"configurations": 3}')  # no report reads it
    text = said(folder)
    assert "1 point has damaged files" in text
    assert "2 never started" in text


def test_links_lead_to_reports_where_there_are_and_to_folders_else(folder: Path) -> None:
    runs = sorted(p for p in folder.iterdir() if p.is_dir())
    (runs[0] / "report.html").write_text("<!DOCTYPE html>")
    page = write_sweep_report(folder).read_text("utf-8")
    targets = set(re.findall(r'<a href="([^"#]*)"', page))
    assert len(targets) == len(runs) + 1  # points.json
    assert f"{runs[0].name}/report.html" in targets
    assert f"{runs[1].name}/" in targets
    assert all((folder / target).exists() for target in targets)


def test_a_rate_axis_needs_rates(tmp_path: Path) -> None:
    for name, axes in (("seeds", {"seed": (0, 1, 2)}), ("policies", {"lr_policy": "ab"})):
        write_sweep(tmp_path / name, axes, lambda c: outcome(0.3 + 0.1 * c.get("seed", 0)))
        page = write_sweep_report(tmp_path / name).read_text("utf-8")
        assert "Learning rate against" not in page
        assert 'class="dot"' in page


def test_the_home_folder_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    secret = f"{tmp_path}/data"
    failed = went_wrong("failed", f"OSError: no {secret}/x.png")
    write_sweep(tmp_path / "s", {"seed": (0,), "data.path": (secret,)}, lambda c: failed)
    page = write_sweep_report(tmp_path / "s").read_text("utf-8")
    assert "no ~/data/x.png" in page
    assert str(tmp_path) not in page


def test_many_policies_are_all_there_but_not_all_drawn(tmp_path: Path) -> None:
    axes = {
        "lr_policy": [f"p{i:02}" for i in range(30)],
        "optimizer.lr": (0.1, 0.2),
        "seed": range(9),
    }
    write_sweep(
        tmp_path, axes, lambda c: outcome(0.1 + 0.01 * int(c["lr_policy"][1:]) + 0.001 * c["seed"])
    )
    page = write_sweep_report(tmp_path).read_text("utf-8")
    assert "The best 8 are drawn" in page
    assert "Drawn are the best 24 of 30 policies" in page
    assert page.count('"hidden":true') > 0
    assert page.count('<figure class="chart compact"') == 24


@pytest.mark.slow
def test_a_thousand_points_fit_a_page_and_take_seconds_of_the_cpu(tmp_path: Path) -> None:
    large_sweep(tmp_path, epochs=30)
    started = time.process_time()
    file = write_sweep_report(tmp_path)
    assert time.process_time() - started < 20
    assert file.stat().st_size < 1_500_000
    text = text_of(file.read_text("utf-8"))
    assert "of 1000 points finished" in text
    assert "at most 36 points of each are drawn" in text


@pytest.mark.slow
def test_of_thousands_of_points_the_best_at_each_rate_are_drawn_and_tables_name_the_rest(
    tmp_path: Path,
) -> None:
    rates = [round(10 ** (-3 + i / 60), 8) for i in range(150)]  # more than a line has places

    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        at = abs(chosen["optimizer.lr"] - rates[77]) + chosen["optimizer.weight_decay"]
        return outcome(0.2 + at + POLICIES.index(chosen["lr_policy"]) / 50)

    axes = {
        "lr_policy": POLICIES[:4],
        "optimizer.lr": rates,
        "optimizer.weight_decay": (0.01, 0.0, 0.02, 0.03),
    }
    write_sweep(tmp_path, axes, result, epochs=2)
    page = write_sweep_report(tmp_path).read_text("utf-8")
    assert len(page) < 2_000_000
    text = text_of(page)
    assert "The first 500 rows; 1,900 more are left out. All are in leaderboard.csv" in text
    assert "the best of each name at each rate is drawn" in text
    sweep, names = read_sweep(tmp_path), POLICIES[:4]
    chart = rate_figures(sweep, explore(sweep).ranked)["monitor"]
    for name in names:
        named = [one for one in chart.series if one.name == name]
        (dots,) = [one for one in named if one.kind == "dots" and not one.shape]
        assert len(dots.x) == 61  # parts of the axis, and its end
        assert min(dots.y) == pytest.approx(0.2 + names.index(name) / 50)
        assert rates[77] in dots.x
        assert [one.kind for one in named].count("line") == 1  # not one for every weight decay


def test_fifty_points_cost_a_sweep_less_than_a_second_of_the_cpu(tmp_path: Path) -> None:
    axes = {"lr_policy": "ab", "optimizer.lr": (0.1, 0.2, 0.3, 0.4, 0.5), "seed": range(5)}
    write_sweep(tmp_path, axes, lambda c: outcome(c["optimizer.lr"]), epochs=30)
    started = time.process_time()
    write_sweep_report(tmp_path)
    assert time.process_time() - started < 1  # half on a quiet machine


# ---- figures for papers


@pytest.mark.slow
def test_figures_are_written_as_png_and_svg_and_the_same_by_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = AXES | {"optimizer.weight_decay": (0.0, 0.1)}
    shutil.rmtree(folder)
    write_sweep(folder, axes, bowl)
    files = write_sweep_plots(folder)
    for name in ("lr_gap", "lr_monitor"):
        assert ">diverged<" in (folder / "plots" / f"{name}.svg").read_text(), "what a cross means"
    names = ["curves", "heat_map_1", "lr_gap", "lr_monitor"]
    assert sorted(f.name for f in files) == sorted(
        f"{n}.{e}" for n in names for e in ("png", "svg")
    )
    for file in files:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG")
        else:
            words = "".join(ET.parse(file).getroot().itertext())
            assert "uniform" in words, "text is text"
    before = {f: f.read_bytes() for f in files}
    shutil.rmtree(folder / "plots")
    assert_the_command_rebuilds(folder, capsys)
    assert before == {f: f.read_bytes() for f in files}, "the same data, the same files"
    shutil.rmtree(folder / "plots")
    assert main(["report", str(folder), "--no-plots"]) == 0
    assert not (folder / "plots").exists()


def test_no_figures_without_results(tmp_path: Path) -> None:
    write_sweep(tmp_path, {"seed": (0, 1)}, lambda c: None)
    assert write_sweep_plots(tmp_path) == []
    assert not (tmp_path / "plots").exists()


def test_the_command_rebuilds_what_a_sweeper_chose_as_it_went(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "points.json").unlink()
    (folder / "multirun.yaml").write_text("hydra: {overrides: {task: [a=1]}}")
    assert_the_command_rebuilds(folder, capsys)


def assert_the_command_rebuilds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Report and figures."""
    assert main(["report", str(folder)]) == 0
    assert "report.html, " in capsys.readouterr().out
    assert (folder / "report.html").is_file()
    assert (folder / "plots" / "curves.svg").is_file()
    assert 'href="plots"' in (folder / "report.html").read_text()


# ---- a real sweep


@pytest.mark.slow
def test_a_real_sweep_ends_with_its_report_also_when_that_cannot_be_written(
    lrexp: Any, tmp_path: Path
) -> None:
    command = ["-m", "experiment=smoke", "optimizer.lr=0.1,0.3", "seed=0,1"]
    done = lrexp(*command, "hydra.sweep.dir=good")
    assert done.returncode == 0, done.stderr
    assert "report good/report.html" in done.stdout
    assert "All 4 points finished." in text_of((tmp_path / "good" / "report.html").read_text())
    blocked = tmp_path / "bad" / "report.html"
    blocked.mkdir(parents=True)
    done = lrexp(*command, "hydra.sweep.dir=bad")
    assert done.returncode == 0, done.stderr
    assert "warning: the report could not be written" in done.stdout
    assert (tmp_path / "bad" / "leaderboard.json").is_file()


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = started.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()


class Seen:
    """A page in the browser, what it asked for and what it complained of."""

    def __init__(self, browser: Any, file: Path, width: int = 1400, scheme: str = "light"):
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(file.as_uri())


def point_at(page: Any, place: Any) -> None:
    """Move the mouse onto something, whatever comes to lie over it then."""
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_asks_for_nothing_and_fits(
    browser: Any, folder: Path, width: int, scheme: str
) -> None:
    file = write_sweep_report(folder)
    seen = Seen(browser, file, width, scheme)
    assert [url for url in seen.requests if not url.startswith("data:")] == [file.as_uri()]
    assert seen.complaints == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    for figure in seen.page.query_selector_all("figure.chart svg"):
        assert figure.bounding_box()["width"] > 200 or figure.bounding_box()["width"] == 22
    assert seen.page.evaluate("document.querySelectorAll('.plot > svg').length") > 3
    seen.page.close()


@pytest.mark.slow
def test_the_leaderboard_sorts_by_click_and_keyboard(browser: Any, folder: Path) -> None:
    seen = Seen(browser, write_sweep_report(folder))
    board = seen.page.locator("table", has=seen.page.locator("caption", has_text="leaderboard"))

    def column(number: int) -> list[str]:
        return board.locator(f"tbody tr td:nth-child({number})").all_inner_texts()

    assert column(1) == [str(i) for i in range(1, 9)]
    heading = board.locator("th button", has_text="lr").nth(1)
    heading.click()
    assert column(3) == sorted(column(3), key=float)
    assert board.locator("th").nth(2).get_attribute("aria-sort") == "ascending"
    heading.focus()
    seen.page.keyboard.press("Enter")
    assert column(3) == sorted(column(3), key=float, reverse=True)
    worst_first = board.locator("th button", has_text="val/loss")
    worst_first.click()
    worst_first.click()
    assert column(4)[-1] == "–", "what has no value comes last either way"
    assert float(column(4)[0]) == 0.9
    assert seen.complaints == []
    seen.page.close()


@pytest.mark.slow
def test_hovering_names_the_point_and_its_value(browser: Any, folder: Path) -> None:
    seen = Seen(browser, write_sweep_report(folder))
    figure = seen.page.locator("figure.chart").first
    dots = figure.locator(".plot > svg path.dot[data-series=uniform]")
    assert dots.count() == 9  # 3 rates × 3 seeds; the fourth rate has diverged
    crosses = figure.locator(".plot > svg path.cross[data-series=uniform]")
    assert crosses.count() == 3
    point_at(seen.page, dots.nth(0))
    tip = figure.locator(".tip").inner_text()
    assert "uniform lr=0.01, seed 0: epoch 2" in tip
    assert "0.5" in tip
    point_at(seen.page, crosses.nth(0))
    assert "seed 0: diverged after 3 epochs" in figure.locator(".tip").inner_text()
    top = figure.locator(".plot > svg").bounding_box()["y"]
    assert crosses.nth(0).bounding_box()["y"] - top < 20, "at the upper edge"
    assert seen.complaints == []
    seen.page.close()


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["val/loss", "val/accuracy"])
def test_what_diverged_lies_beyond_the_axis_and_the_legend_says_so(
    browser: Any, tmp_path: Path, monitor: str
) -> None:
    axes = {"optimizer.lr": (0.1, 1e6), "momentum": (0, 1), "seed": (0, 1)}
    bad = went_wrong("diverged")
    write_sweep(
        tmp_path,
        axes,
        lambda c: bad if c["optimizer.lr"] == 1e6 else outcome(0.2 + 0.1 * c["seed"]),
        monitor=monitor,
    )
    seen = Seen(browser, write_sweep_report(tmp_path), 420)
    figure = seen.page.locator("figure.chart").first
    assert figure.locator("span.key").all_inner_texts() == ["diverged"]
    divide = figure.locator("line.divide").bounding_box()["y"]

    def heights(kind: str) -> list[float]:
        found = figure.locator(f".plot > svg path.{kind}").all()
        return [(box := one.bounding_box())["y"] + box["height"] / 2 for one in found]

    crosses, dots = heights("cross"), heights("dot")
    assert len({round(y) for y in crosses}) == 4, "none hides another"
    up = 1 if monitor == "val/loss" else -1  # the worst end of the axis
    assert min(up * (divide - y) for y in crosses) > 0
    assert max(up * (divide - y) for y in dots) < 0
    plot = figure.locator(".plot > svg").bounding_box()
    text = figure.locator(".plot > svg text.strong").bounding_box()
    assert plot["x"] <= text["x"]
    assert text["x"] + text["width"] <= plot["x"] + plot["width"]
    assert "1e6" in figure.locator(".plot > svg text").all_text_contents()
    seen.page.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "policies"), [(400, 3), (1400, 10)])
def test_everything_stands_at_its_true_rate(
    browser: Any, tmp_path: Path, width: int, policies: int
) -> None:
    axes = {"lr_policy": POLICIES[:policies], "optimizer.lr": (0.01, 0.1, 1.0), "seed": (0, 1)}

    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        if chosen["optimizer.lr"] == 1.0:
            return went_wrong("diverged")
        return outcome(0.5 + chosen["optimizer.lr"] + 0.01 * chosen["seed"])

    write_sweep(tmp_path, axes, result, epochs=1)
    seen = Seen(browser, write_sweep_report(tmp_path), width)
    found = seen.page.evaluate(
        """() => {
            const plot = document.querySelector('figure.chart .plot > svg');
            const ticks = Object.fromEntries([...plot.querySelectorAll('text')]
                .filter(text => ['0.01', '0.1', '1'].includes(text.textContent))
                .map(text => [text.textContent, Number(text.getAttribute('x'))]));
            const all = (kind, get) => [...plot.querySelectorAll(kind)].map(get);
            const place = node => node.getAttribute('transform');
            const moved = node => Number(place(node).match(/[(]([^ ]+)/)[1]);
            return {ticks, dots: all('path.dot', moved), crosses: all('path.cross', moved),
                piled: all('path.cross', place),
                rings: all('circle.ring', node => Number(node.getAttribute('cx')))};
        }"""
    )
    shown, ticks = min(8, policies), found["ticks"]
    for where, kind, count in (("0.01", "dots", 2), ("0.1", "dots", 2), ("1", "crosses", 2),
                               ("0.01", "rings", 1)):  # fmt: skip
        there = [x for x in found[kind] if abs(x - ticks[where]) <= 0.06]
        assert len(there) == count * shown, (where, kind)
    assert (len(found["dots"]), len(found["rings"])) == (4 * shown, shown)
    assert len(set(found["piled"])) == len(found["crosses"]) == 2 * shown, "none hides another"
    seen.page.close()


def test_policies_and_rates_are_a_map_too(folder: Path) -> None:
    (found,) = [one for one in specs(folder) if one["kind"] == "heat"]
    assert found["rows"] == ["uniform", "freeze_backbone"]
    assert found["columns"] == ["0.01", "0.03", "0.1", "0.3"]
    assert found["values"][0] == [pytest.approx(0.51), pytest.approx(0.21), 0.31, None]
    assert found["labels"][0][3] == "uniform lr=0.3: 3 diverged"
    assert found["reverse"]
    assert found["note"] == "Hatched: no point finished or none was tried."


@pytest.mark.slow
def test_dots_in_one_place_are_all_named(browser: Any, tmp_path: Path) -> None:
    axes = {"lr_policy": "ab", "optimizer.lr": (0.01, 0.1)}
    seen = Seen(browser, write_sweep_report(write_sweep(tmp_path, axes, lambda c: outcome(0.5))))
    figure = seen.page.locator("figure.chart").first
    point_at(seen.page, figure.locator(".plot > svg path.dot").first)
    tip = figure.locator(".tip").inner_text()
    assert "there too:" in tip
    assert {"a lr=0.01", "b lr=0.01"} <= set(re.findall(r"[ab] lr=[\d.]+", tip))
    seen.page.close()


@pytest.mark.slow
def test_the_legend_switches_a_policy_off_and_on(browser: Any, folder: Path) -> None:
    seen = Seen(browser, write_sweep_report(folder))
    figure = seen.page.locator("figure.chart").first
    key = figure.locator("button.key", has_text="uniform")
    drawn = figure.locator(".plot > svg [data-series=uniform]")
    before = drawn.count()
    assert before > 10
    key.click()
    assert (drawn.count(), key.get_attribute("aria-pressed")) == (0, "false")
    key.click()
    assert (drawn.count(), key.get_attribute("aria-pressed")) == (before, "true")
    seen.page.close()


@pytest.mark.slow
def test_a_thousand_points_are_drawn(browser: Any, tmp_path: Path) -> None:
    file = write_sweep_report(large_sweep(tmp_path, epochs=10))
    seen = Seen(browser, file)
    seen.page.wait_for_function("document.querySelectorAll('.plot > svg path.dot').length > 500")
    assert seen.complaints == []
    seen.page.close()
