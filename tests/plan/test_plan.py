"""The plan: total, named, hashed, printable, whatever a policy decides per parameter."""

from __future__ import annotations

import csv
import io
import itertools
import math
import random
import re
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrexp.config.errors import UserError
from lrexp.models.layers import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, cosine, make_plan, never, read_plan, rise, then

# Names that collide once every other character has become an underscore.
LAYER_NAMES = [
    "conv",
    "a",
    "a.0",
    "a_0",
    "a_0_2",
    "a_0_weight",
    "all",
    "backbone",
    "_",
    "é",
    "a_no",
]
TREATMENTS = [
    Treatment(1.0, 0.0),
    Treatment(1.0, 0.1),
    Treatment(0.5, 0.0),
    Treatment(0.5, 0.1),
    Treatment(0.5, 0.1, trainable_from=2),
    Treatment(0.5, 0.1, trainable_until=3),
    Treatment(0.5, 0.1, trainable_from=2, g=rise(2, 0.1)),
    Treatment(1 / 3, 0.1, trainable_until=3, g=cosine(2.7), frozen_dropout=True),
    Treatment(1.0, 0.0, g=then(3, 0.1), bn_stats="frozen", schedule_restart=3),
    Treatment(1.0, 0.0, measured="a"),
    never(Treatment(1.0, 0.1)),
]


@st.composite
def layer_maps(draw: st.DrawFn) -> LayerMap:
    """A few layers of one to three parameters, the last of them the head."""
    names = [*draw(st.lists(st.sampled_from(LAYER_NAMES), max_size=6, unique=True)), "head"]
    kinds = st.lists(st.sampled_from(["weight", "bias"]), min_size=1, unique=True)
    return LayerMap(
        tuple(
            LayerParameter(f"{name}.{kind}", (2, 3), layer, name, name == "head", "fresh")
            for layer, name in enumerate(names)
            for kind in draw(kinds)
        )
    )


@st.composite
def decided(draw: st.DrawFn) -> tuple[LayerMap, dict[str, Treatment]]:
    layers = draw(layer_maps())
    pick = st.sampled_from(TREATMENTS)
    return layers, {p.name: draw(pick) for p in layers.parameters}


def treatments_of(plan: Plan) -> dict[str, Treatment]:
    return {
        r.name: Treatment(**{f.name: getattr(r, f.name) for f in fields(Treatment)})
        for r in plan.rows
    }


def small_plan(scale: float = 0.5) -> Plan:
    parameters = (
        LayerParameter("conv.weight", (10, 1, 5, 5), 0, "conv", False, "loaded"),
        LayerParameter("conv.bias", (10,), 0, "conv", False, "fresh"),
        LayerParameter("head.weight", (10, 50), 1, "head", True, "fresh"),
    )
    head, rest = Treatment(scale, 0.01), never(Treatment(1.0, 0.0))
    return make_plan(LayerMap(parameters), lambda p: head if p.head else rest)


@settings(max_examples=100, deadline=None)
@given(decided())
def test_plan_is_total_disjoint_and_keeps_every_decision(
    case: tuple[LayerMap, dict[str, Treatment]],
) -> None:
    layers, treatment = case
    plan = make_plan(layers, lambda p: treatment[p.name])
    assert treatments_of(plan) == treatment
    assert [row.name for row in plan.rows] == [p.name for p in layers.parameters]
    grouped = [row.name for rows in plan.groups.values() for row in rows]
    assert sorted(grouped) == sorted(treatment)


@settings(max_examples=150, deadline=None)
@given(decided())
def test_a_group_name_stands_for_one_set_of_hyperparameters(
    case: tuple[LayerMap, dict[str, Treatment]],
) -> None:
    layers, treatment = case
    plan = make_plan(layers, lambda p: treatment[p.name])
    for name, rows in plan.groups.items():
        assert re.fullmatch(r"[A-Za-z0-9_]+", name)
        assert len({treatment[row.name] for row in rows}) == 1, f"{name} mixes hyperparameters"
    assert len(plan.groups) == len(set(treatment.values()))


def test_layers_whose_names_collide_keep_groups_of_their_own() -> None:
    names = ["a.0", "a_0", "a_0_2", "head"]
    parameters = tuple(
        LayerParameter(f"{name}.{kind}", (2,), i, name, name == "head", "fresh")
        for i, name in enumerate(names)
        for kind in ("weight", "bias")
    )
    plan = make_plan(LayerMap(parameters), lambda p: Treatment(1.0 / (1 + p.layer), 0.0))
    assert len(plan.groups) == 4


@pytest.mark.parametrize("name", ["_", "é", "__"])
def test_a_layer_whose_name_has_no_letters_still_gets_a_group_name(name: str) -> None:
    parameters = (
        LayerParameter(f"{name}.weight", (2,), 0, name, False, "fresh"),
        LayerParameter("head.weight", (2,), 1, "head", True, "fresh"),
    )
    plan = make_plan(LayerMap(parameters), lambda p: Treatment(1.0 + p.layer, 0.0))
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", group) for group in plan.groups)


@settings(max_examples=60, deadline=None)
@given(decided(), st.randoms(use_true_random=False))
def test_what_a_parameter_gets_does_not_depend_on_the_order_of_parameters(
    case: tuple[LayerMap, dict[str, Treatment]], shuffler: random.Random
) -> None:
    layers, treatment = case
    shuffled = list(layers.parameters)
    shuffler.shuffle(shuffled)
    plan = make_plan(layers, lambda p: treatment[p.name])
    other = make_plan(LayerMap(tuple(shuffled)), lambda p: treatment[p.name])
    assert treatments_of(plan) == treatments_of(other)

    def partition(plan: Plan) -> set[frozenset[str]]:
        return {frozenset(row.name for row in rows) for rows in plan.groups.values()}

    assert partition(plan) == partition(other)


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ({}, {"all"}),
        ({"head": 2.0}, {"backbone", "head"}),
        ({"conv": 2.0}, {"conv", "hidden_0_to_head"}),
        ({"hidden.0": 2.0, "conv": 2.0}, {"backbone", "head"}),
        ({"conv": 2.0, "hidden.0": 3.0}, {"conv", "hidden_0", "head"}),
        ({"conv.bias": 2.0}, {"all", "conv"}),
        (
            {"conv.bias": 2.0, "hidden.0": 3.0, "head": 4.0},
            {"conv", "conv_bias", "hidden_0", "head"},
        ),
    ],
)
def test_groups_are_called_after_the_layers_they_cover(
    scales: dict[str, float], expected: set[str]
) -> None:
    parameters = tuple(
        LayerParameter(f"{name}.{kind}", (2,), i, name, name == "head", "fresh")
        for i, name in enumerate(["conv", "hidden.0", "head"])
        for kind in ("weight", "bias")
    )

    def treat(parameter: LayerParameter) -> Treatment:
        own = scales.get(parameter.name, scales.get(parameter.layer_name, 1.0))
        return Treatment(own, 0.0)

    assert set(make_plan(LayerMap(parameters), treat).groups) == expected
    decayed = make_plan(LayerMap(parameters), lambda p: replace(treat(p), weight_decay=0.1))
    assert {name.removesuffix("_decay") for name in decayed.groups} >= expected - {"conv_bias"}
    assert all("_decay" in name for name in decayed.groups)


def test_equal_plans_share_a_hash_and_any_difference_changes_it() -> None:
    plan = small_plan()
    assert plan.hash == small_plan().hash
    assert re.fullmatch(r"[0-9a-f]{16}", plan.hash)
    changes = [
        {"name": "other"},
        {"shape": (1,)},
        {"layer": 7},
        {"group": "other"},
        {"head": True},
        {"source": "elsewhere"},
        {"lr_scale": 0.25},
        {"weight_decay": 0.3},
        {"trainable_from": 1},
        {"trainable_until": 9},
        {"g": "cosine 2.0"},
        {"measured": "conv"},
        {"bn_stats": "live"},
        {"frozen_dropout": True},
        {"schedule_restart": 3},
    ]
    changed = [Plan((replace(plan.rows[0], **change), *plan.rows[1:])) for change in changes]
    hashes = [plan.hash, *(other.hash for other in changed), Plan(plan.rows[1:]).hash]
    assert len(set(hashes)) == len(hashes)


@settings(max_examples=50, deadline=None)
@given(decided())
def test_csv_reads_back_row_by_row(case: tuple[LayerMap, dict[str, Treatment]]) -> None:
    layers, treatment = case
    plan = make_plan(layers, lambda p: treatment[p.name])
    read = list(csv.DictReader(io.StringIO(plan.to_csv())))
    assert len(read) == len(plan.rows)
    for cells, row in zip(read, plan.rows, strict=True):
        assert cells["name"] == row.name
        assert cells["group"] == row.group
        assert cells["layer_name"] == row.layer_name
        assert tuple(map(int, cells["shape"].split("x"))) == row.shape
        assert cells["head"] == ("true" if row.head else "false")
        assert cells["source"] == row.source
        assert (int(cells["layer"]), int(cells["trainable_from"])) == (
            row.layer,
            row.trainable_from,
        )
        assert float(cells["lr_scale"]) == row.lr_scale
        assert float(cells["weight_decay"]) == row.weight_decay
        until = row.trainable_until
        assert cells["trainable_until"] == ("" if until is None else str(until))
    again = read_plan(plan.to_csv())
    assert again == plan
    assert again.hash == plan.hash
    assert again.diff(plan) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text.replace("lr_scale", "rate"),
        lambda text: text.replace("0.01", "fast"),
        lambda text: text.replace("true", "maybe"),
        lambda text: text.replace(",,,follow", ",,jump 3,follow").replace(",,jump", ",jump"),
        lambda text: text.rsplit(",", 3)[0],
    ],
)
def test_what_is_no_plan_is_refused_with_the_line(spoil: Callable[[str], str]) -> None:
    text = small_plan().to_csv()
    assert spoil(text) != text
    with pytest.raises(UserError, match="plan"):
        read_plan(spoil(text))


def test_the_difference_of_two_plans_names_every_parameter_and_both_values() -> None:
    plan = small_plan()
    assert plan.diff(small_plan()) == []
    assert plan.diff(Plan(plan.rows[::-1])) == []  # order is no difference
    assert plan.diff(small_plan(0.25)) == ["head.weight: lr_scale 0.5 → 0.25"]
    frozen, late = plan.rows[0], replace(plan.rows[2], trainable_from=2, g=rise(2, 1.0))
    changed = Plan((frozen, replace(plan.rows[1], name="conv.scale"), late))
    assert plan.diff(changed) == [
        "conv.bias: only in the first plan",
        "head.weight: trainable_from 0 → 2, g none → rise 2 1.0",
        "conv.scale: only in the second plan",
    ]
    same = [replace(row, bn_stats="live") for row in plan.rows[:2]]
    assert plan.diff(Plan((*same, plan.rows[2]))) == [
        "conv.weight, conv.bias: bn_stats follow → live"
    ]


def table(treatment: Treatment, steps: int, per_epoch: int) -> list[float] | None:
    parameter = LayerParameter("head.weight", (2,), 0, "head", True, "fresh")
    plan = make_plan(LayerMap((parameter,)), lambda p: treatment)
    return plan.factors(steps, per_epoch).get("head")


def test_a_factor_over_time_is_its_closed_form_and_0_while_frozen() -> None:
    assert table(Treatment(0.5, 0.0), 9, 3) is None  # nothing to evaluate
    assert table(Treatment(1.0, 0.0, trainable_from=1), 5, 2) == [0, 0, 1, 1, 1]
    assert table(Treatment(1.0, 0.0, trainable_until=1), 5, 2) == [1, 1, 0, 0, 0]
    assert table(Treatment(1.0, 0.0, g=then(2, 0.1)), 6, 2) == [1, 1, 1, 1, 0.1, 0.1]
    slowing = table(Treatment(1.0, 0.0, trainable_until=3, g=cosine(2.5)), 12, 4)
    expected = [(1 + math.cos(math.pi * t / 10)) / 2 if t < 10 else 0.0 for t in range(12)]
    assert slowing == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("epochs", [0.01, 0.5, 1.0, 2.5])
def test_a_rate_that_rises_after_an_edge_is_continuous(epochs: float) -> None:
    per_epoch, start = 8, 2
    rising = table(Treatment(1.0, 0.0, trainable_from=start, g=rise(start, epochs)), 60, per_epoch)
    assert rising is not None
    length = round(epochs * per_epoch)
    assert rising[: start * per_epoch] == [0.0] * (start * per_epoch)
    jumps = [after - before for before, after in itertools.pairwise(rising)]
    assert max(jumps) == pytest.approx(1 / (length + 1))
    assert min(jumps) >= 0
    assert rising[start * per_epoch + length] == rising[-1] == 1.0


def test_what_would_train_only_after_the_end_is_named() -> None:
    plan = small_plan()
    late = Plan((*plan.rows[:2], replace(plan.rows[2], trainable_from=4)))
    assert late.never_reached(4) == ["head.weight"]
    assert late.never_reached(5) == plan.never_reached(1) == []


def test_csv_is_the_table_people_expect() -> None:
    lines = small_plan().to_csv().splitlines()
    assert lines[0] == (
        "name,shape,layer,layer_name,group,head,source,"
        "lr_scale,weight_decay,trainable_from,trainable_until,"
        "g,measured,bn_stats,frozen_dropout,schedule_restart"
    )
    assert lines[
        1
    ] == "conv.weight,10x1x5x5,0,conv,backbone,false,loaded,0.0,0.0,0,0,,,follow,false,".replace(
        "backbone", small_plan().rows[0].group
    )
    assert lines[3] == "head.weight,10x50,1,head,head_decay,true,fresh,0.5,0.01,0,,,,follow,false,"


@pytest.mark.parametrize(
    ("start", "end", "trained"),
    [
        (0, None, [0, 1, 2, 3, 4]),
        (2, None, [2, 3, 4]),
        (0, 3, [0, 1, 2]),
        (1, 3, [1, 2]),
        (0, 0, []),
        (3, 3, []),
    ],
)
def test_trainable_from_and_until_count_finished_epochs(
    start: int, end: int | None, trained: list[int]
) -> None:
    row = replace(small_plan().rows[0], trainable_from=start, trainable_until=end)
    assert [epoch for epoch in range(5) if row.trains_after(epoch)] == trained
    assert row.frozen == (not trained)


def test_frozen_random_names_frozen_tensors_that_were_never_loaded() -> None:
    assert small_plan().frozen_names == ["conv.weight", "conv.bias"]
    assert small_plan().frozen_random == ["conv.bias"]
