"""Made-up conclusions: every kind of outcome that a terminal, a page and files have to show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lrexp.judge.comparison import Compared, Needs, Word
from lrexp.judge.conclusion import Conclusion, Row, Rung
from lrexp.judge.crossed import Crossed
from lrexp.judge.ranking import Spread, spread

SEEDS = tuple(range(100, 110))
RATES = (0.01, 0.0316, 0.1, 0.316, 1.0)
NAN = math.nan


def compared(
    name: str,
    mean: float,
    se: float = 0.006,
    word: Word = "undecided",
    needs: Needs | None = None,
    **others: Any,
) -> Compared:
    """A configuration against the baseline, 10 seeds and 179 images."""
    p = others.pop("p", 0.04)
    given = Compared(
        name=name,
        difference=Crossed(mean, se, 17.3, 10, 179, 4e-4, 3e-3, 2e-2),
        interval=(mean - 2.1 * se, mean + 2.1 * se),
        p=p,
        p_adjusted=min(1.0, 3 * p),
        p_margin=0.3,
        word=word,
        needs=needs,
        loss=Crossed(-mean, 2 * se, 15.0, 10, 179, 4e-4, 3e-3, 2e-2),
        disagrees=False,
    )
    return replace(given, **others)


def ladder(best: float = 0.1, floor: float = 0.2, bad_from: float = 2.0) -> tuple[Rung, ...]:
    """Rates over two decades, worse on either side of the best."""
    rungs = []
    for rate in RATES:
        worth = floor + 0.05 * math.log10(rate / best) ** 2
        if rate >= bad_from:
            rungs.append(Rung(rate, Spread(0, NAN, NAN), bad="3 diverged"))
        else:
            rungs.append(Rung(rate, Spread(3, worth, 0.012)))
    return tuple(rungs)


def row(name: str, mean: float = 0.94, found: Compared | None = None, **others: Any) -> Row:
    """A configuration that was confirmed on ten seeds."""
    scores = tuple(mean + 0.004 * ((7 * i) % 10 - 4.5) for i in range(len(SEEDS)))
    given = Row(
        name=name,
        settings="lr 0.1",
        overrides=(f"lr_policy={name}", "optimizer.lr=0.1"),
        baseline=found is None,
        tries=5,
        rate=0.1,
        edge="inside",
        score=spread(scores),
        loss=Spread(10, 0.21, 0.02),
        compared=found,
        overfits="no",
        ended="",
        took_s=3.4,
        ladder=ladder(),
        per_seed=scores,
    )
    return replace(given, **others)


def conclusion(*rows: Row, **others: Any) -> Conclusion:
    """What `which` on finetune_digits might come to."""
    given = Conclusion(
        sentence=(
            "freeze_backbone at lr 0.316 is better than uniform at lr 0.1 by 2.4 points of test"
            " accuracy [1.1, 3.7] (10 seeds, 179 images, p = 0.004 after Holm)."
        ),
        remarks=(
            "Configurations were compared, not policies in general.",
            "A seed moved initialisation of the head, order, augmentation and dropout.",
        ),
        rows=rows or (*DECIDED,),
        metric="accuracy",
        split="test",
        monitor="val/loss",
        margin=0.02,
        smallest_margin=0.0123,
        seeds=SEEDS,
        images=179,
        paste=(
            "lrexp experiment=finetune_digits lr_policy=freeze_backbone optimizer.lr=0.316"
            " trainer.epochs=20"
        ),
        cost=(
            ("runs", "145"),
            ("single-run equivalents", "31.4"),
            ("time", "4 min 12 s"),
        ),
    )
    return replace(given, **others)


DECIDED = (
    row("freeze_backbone", 0.964, compared("freeze_backbone", 0.024, word="better", p=0.0013),
        rate=0.316, ladder=ladder(0.316, 0.15), took_s=1.6),
    row("lp_ft", 0.951, compared("lp_ft", 0.011, needs=Needs(9, None)),
        overfits="yes, in 4 of 10", ladder=ladder(0.0316, 0.19), rate=0.0316),
    row("layerwise_decay", 0.9424, compared("layerwise_decay", 0.0024, 0.004, "no difference"),
        settings="lr 0.1 decay=0.6", ladder=(*ladder(floor=0.22), *(
            replace(rung, variant="decay=0.6") for rung in ladder(floor=0.2)))),
    row("uniform", 0.94, ladder=ladder(bad_from=1.0)),
    row("per_layer", 0.918, compared("per_layer", -0.022, word="worse", p=0.002),
        tries=7, edge="upper", rate=1.0),
)  # fmt: skip


def undecided() -> Conclusion:
    """With words for both kinds of need, and a loss that disagrees."""
    return conclusion(
        row("lp_ft", 0.951, compared("lp_ft", 0.011, needs=Needs(9, None), disagrees=True)),
        row("uniform"),
        row("surgical", 0.936, compared("surgical", -0.004, needs=Needs(None, 700))),
        row("auto_rgn", 0.93, compared("auto_rgn", -0.01, 0.02, needs=Needs(None, None))),
        sentence="Undecided: no policy can be told from uniform with 10 seeds and 179 images.",
        finished=False,
    )


def no_difference() -> Conclusion:
    return conclusion(
        row("lp_ft", 0.942, compared("lp_ft", 0.002, 0.003, "no difference")),
        row("uniform"),
        sentence="No difference larger than 2 points of test accuracy between lp_ft and uniform.",
    )


def exploratory() -> Conclusion:
    return conclusion(
        split="val",
        remarks=("Exploratory: there is no test split, so the images that rates were chosen by "
                 "are those that the comparison is on.",),
    )  # fmt: skip


def collapsed() -> Conclusion:
    """One far below all others, with a guesser's score in a seed."""
    scores = (0.1, *(0.95 + 0.002 * i for i in range(9)))
    return conclusion(
        row("lp_ft", 0.951, compared("lp_ft", 0.011, needs=Needs(9, None))),
        row("uniform"),
        row("discriminative", 0.87, compared("discriminative", -0.07, 0.085, needs=Needs(40, None)),
            score=spread(scores), per_seed=scores, ended="1 collapsed",
            loss=Spread(9, 0.2, 0.01), rate=1.0, edge="upper", ladder=ladder(bad_from=0.3)),
        row("surgical", 0.1, compared("surgical", -0.84, 0.01, "worse", loss=None), rate=1.0,
            score=Spread(10, 0.1, 0.0), per_seed=(0.1,) * 10, ended="10 diverged",
            loss=Spread(0, NAN, NAN), overfits="", ladder=ladder(bad_from=0.0)),
    )  # fmt: skip


def twelve() -> Conclusion:
    names = [
        "layerwise_decay", "freeze_backbone", "lp_ft", "gradual_unfreeze", "discriminative",
        "surgical", "auto_rgn", "bias_norm_only", "per_layer", "freeze_layers", "my_own_policy",
    ]  # fmt: skip
    rows = [
        row(name, 0.95 - 0.004 * i,
            compared(name, 0.01 - 0.004 * i, needs=Needs(20 + i, None)),
            ladder=ladder(RATES[i % 4 + 1]), rate=RATES[i % 4 + 1])
        for i, name in enumerate(names)
    ]  # fmt: skip
    return conclusion(*rows[:3], row("uniform"), *rows[3:])


def one_policy() -> Conclusion:
    return conclusion(
        row("uniform"),
        sentence="uniform at lr 0.1 was confirmed alone: 94.0 ± 0.4 %.",
        margin=None,
        smallest_margin=NAN,
    )


LONG = "a_policy_with_a_name_that_is_much_longer_than_anybody_would_type_twice_in_a_day"
EVIL = '<b>&"\x1b[31m|`*_$%#{}~^\\]\n</script> 100 %'


def long_names() -> Conclusion:
    setting = " ".join(f"a_setting_with_a_long_name_{i}=0.123456789" for i in range(4))
    overfits = "yes: by epoch 17 val loss had risen by 0.12 ± 0.03 in 4 of 10 seeds"
    found = compared(LONG, 0.011, needs=Needs(9, None))
    long_row = row(LONG, 0.951, found, settings=setting, overfits=overfits)
    rows = [long_row, replace(long_row, settings=f"{setting} more"), row("uniform")]
    return conclusion(*rows, paste=f"lrexp lr_policy={LONG} {setting} name='two words'")


def evil() -> Conclusion:
    """Names that are markup, escapes of a terminal, and commands of LaTeX."""
    bad = row(EVIL, 0.951, compared(EVIL, 0.011, needs=Needs(9, None)), settings=EVIL,
              overfits=EVIL, ended=EVIL, overrides=(EVIL,))  # fmt: skip
    return conclusion(bad, row("uniform"), sentence=f"{EVIL} is better.", remarks=(EVIL,),
                      paste=f"lrexp {EVIL}", cost=((EVIL, EVIL),))  # fmt: skip


def nothing_known() -> Conclusion:
    """Every number that may be missing is."""
    none = Crossed(NAN, NAN, NAN, 0, 0, NAN, NAN, NAN)
    found = Compared("lp_ft", none, (NAN, NAN), NAN, NAN, None, "undecided", None, None, False)
    empty = Spread(0, NAN, NAN)
    bare: dict[str, Any] = {"score": empty, "loss": empty, "rate": None, "took_s": NAN,
                            "overfits": "", "per_seed": ()}  # fmt: skip
    rungs = (Rung(0.1, empty, bad="3 diverged"), Rung(1.0, empty))
    return conclusion(
        row("lp_ft", NAN, found, ladder=rungs, **bare),
        row("uniform", NAN, ladder=(), **bare),
        replace(row("surgical", NAN, **bare), baseline=False, rate=NAN),
        sentence="Nothing is known yet.", margin=None, smallest_margin=NAN, cost=(), paste="",
        remarks=(), finished=False,
    )  # fmt: skip


def loss_metric() -> Conclusion:
    """Compared by something that is no share."""
    return conclusion(
        row("lp_ft", 0.21, compared("lp_ft", -0.0312, 0.0081, "better", p=0.001)),
        row("uniform", 0.24),
        metric="loss", margin=0.05, smallest_margin=0.0231,
        sentence="lp_ft is better than uniform by 0.031 of test loss [0.014, 0.048].",
    )  # fmt: skip


def empty() -> Conclusion:
    return replace(conclusion(), rows=(), finished=False, sentence="No run has ended yet.")


ALL: Mapping[str, Any] = {
    "decided": conclusion,
    "undecided": undecided,
    "no_difference": no_difference,
    "exploratory": exploratory,
    "collapsed": collapsed,
    "twelve": twelve,
    "one_policy": one_policy,
    "long_names": long_names,
    "evil": evil,
    "nothing_known": nothing_known,
    "loss_metric": loss_metric,
    "empty": empty,
}
