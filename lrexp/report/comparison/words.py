"""What a conclusion's numbers are called, the same in the terminal, on the page and in tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from lrexp.config.errors import for_terminal
from lrexp.judge.comparison import Compared
from lrexp.judge.conclusion import Conclusion, Row
from lrexp.judge.remarks import units_in_words
from lrexp.judge.words import is_share
from lrexp.report.html.page import is_finite, number, plus_minus

GONE = "–"  # where there is no number
MOST_LETTERS = 48  # of a name in running text
MOST_LISTED = 4  # names in a sentence
COLUMNS = {
    "name": "policy",
    "tries": "tries",
    "rate": "rate",
    "score": "",  # the split
    "difference": "difference",
    "verdict": "verdict",
    "overfits": "overfit",
}
NUMBERS = ("tries", "rate", "score", "difference")  # columns aligned to the right


def cut(text: str, most: int) -> str:
    """Both ends of a long text: names may differ at either.

    >>> cut("layerwise_decay decay=0.6", 16)
    'layerwi...ay=0.6'
    """
    if len(text) <= most:
        return text
    tail = max(0, most - 3) // 2
    return f"{text[: max(0, most - 3 - tail)]}...{text[len(text) - tail :]}"[:most]


def one_line(text: str) -> str:
    """Without line breaks and control characters, which names and errors of others may hold."""
    return for_terminal(" ".join(text.split()))


def metric_words(metric: str) -> str:
    """`balanced accuracy` for `balanced_accuracy`."""
    return metric.rpartition("/")[2].replace("_", " ")


def names_of(conclusion: Conclusion) -> list[str]:
    """What the rows go by: with their settings where several have one name."""
    counts = Counter(row.name for row in conclusion.rows)
    names = [
        one_line(f"{row.name} {row.settings}" if counts[row.name] > 1 else row.name)
        for row in conclusion.rows
    ]
    seen = Counter[str]()
    for i, name in enumerate(names):
        seen[name] += 1
        names[i] = f"{name} ({seen[name]})" if seen[name] > 1 else name
    return names


def detail_words(row: Row) -> str:
    """What was chosen for it, and what became of its seeds."""
    return one_line("; ".join(filter(None, (row.settings, row.ended))))


def baseline_of(conclusion: Conclusion) -> str:
    """The name that differences are counted from; `the baseline` where no row is it."""
    for row, name in zip(conclusion.rows, names_of(conclusion), strict=True):
        if row.baseline:
            return name
    return "the baseline"


def decimals(error: float, share: bool) -> int:
    """Of a difference: two digits of its error; of points one, or two of a very small error."""
    if share:
        return 2 if is_finite(error) and 0 < error < 0.001 else 1
    if not is_finite(error) or error <= 0:
        return 4
    return min(6, max(0, 1 - math.floor(math.log10(error))))


def signed(value: float, places: int, share: bool) -> str:
    """`+2.1` points of a share, `−0.012` of anything else; what rounds to zero has no sign.

    >>> signed(0.021, 1, True), signed(-0.0123, 3, False), signed(-0.0001, 1, True)
    ('+2.1', '−0.012', '0.0')
    """
    if not math.isfinite(value):
        return GONE
    value = round(100 * value if share else value, places)
    return f"{value:+.{places}f}".replace("-", "−") if value else f"{0:.{places}f}"


def unit(share: bool) -> str:
    """What differences are counted in."""
    return " points" if share else ""


def margin_words(margin: float, share: bool) -> str:
    """`2 points`, `0.05`."""
    return f"{100 * margin:.3g} points" if share else f"{margin:.3g}"


def difference_words(found: Compared | None, share: bool) -> str:
    """`+2.1 [+0.8, +3.4]`, in points of a share."""
    if found is None or not is_finite(found.difference.mean):
        return GONE
    places = decimals(found.difference.se, share)
    low, high = (signed(end, places, share) for end in found.interval)
    mean = signed(found.difference.mean, places, share)
    return mean if GONE in (low, high) else f"{mean} [{low}, {high}]"


def score_words(row: Row, share: bool) -> str:
    """`94.9 ± 1.2 %`: the mean over seeds and its standard error."""
    if not row.score.n:
        return GONE
    return plus_minus(row.score.mean, row.score.se, 4, share)


def p_words(p: float) -> str:
    """`= 0.013`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {number(float(p), 2)}"


def rate_words(rate: float | None) -> str:
    return GONE if rate is None or not math.isfinite(rate) else f"{rate:.4g}"


def verdict_words(row: Row, conclusion: Conclusion) -> str:
    """`better`, `no difference larger than 2 points`, …; on validation it is exploratory."""
    if row.baseline:
        return "baseline"
    if row.compared is None:
        return "not compared"
    word: str = row.compared.word
    if word == "no difference" and conclusion.margin is not None:
        word += f" larger than {margin_words(conclusion.margin, is_share(conclusion.metric))}"
    return word if is_deciding(conclusion) else f"{word} (exploratory)"


def is_deciding(conclusion: Conclusion) -> bool:
    """Whether the images are others than those that rates were chosen by."""
    return conclusion.split != "val"


def needs_words(found: Compared | None, conclusion: Conclusion) -> str:
    """What would settle an undecided comparison."""
    needs = None if found is None else found.needs
    if found is None or needs is None:
        return ""
    if needs.seeds is not None:
        return f"about {needs.seeds:,} more seed{'s' * (needs.seeds != 1)}"
    if needs.images is not None:
        return f"at least {needs.images:,} {units_in_words(found, conclusion)}"
    return "nothing in reach would settle it"


def cells_of(row: Row, name: str, conclusion: Conclusion) -> dict[str, str]:
    """What the table says of a row, by the keys of COLUMNS."""
    share = is_share(conclusion.metric)
    return {
        "name": name,
        "tries": number(row.tries),
        "rate": rate_words(row.rate),
        "score": score_words(row, share),
        "difference": difference_words(row.compared, share),
        "verdict": verdict_words(row, conclusion),
        "overfits": row.overfits or GONE,
    }


def table_of(conclusion: Conclusion) -> list[dict[str, str]]:
    """The headings and a line per row, by the keys of COLUMNS."""
    heads = COLUMNS | {"score": f"{conclusion.split} {metric_words(conclusion.metric)}"}
    named = zip(conclusion.rows, names_of(conclusion), strict=True)
    return [heads, *(cells_of(row, name, conclusion) for row, name in named)]


def short_table_of(conclusion: Conclusion) -> list[dict[str, str]]:
    """`table_of` in fewer letters: a verdict is its word, and its heading says what it is worth."""
    heads, *rows = table_of(conclusion)
    heads |= {"score": conclusion.split}
    heads |= {} if is_deciding(conclusion) else {"verdict": "exploratory"}
    for line, row in zip(rows, conclusion.rows, strict=True):
        line |= {"verdict": row.compared.word} if row.compared and not row.baseline else {}
    return [heads, *rows]


def reading(conclusion: Conclusion) -> str:
    """What differences and errors of the table are, in a sentence."""
    errors = "± is the standard error over seeds"
    if all(row.compared is None for row in conclusion.rows):
        return f"{errors}."
    share = is_share(conclusion.metric)
    counted = "points" if share else "units"
    words = metric_words(conclusion.metric)
    found = {row.compared.word for row in conclusion.rows if row.compared is not None}
    if "no difference" in found and conclusion.margin is not None:
        errors += f"; no difference means none above {margin_words(conclusion.margin, share)}"
    return (
        f"Differences are from {baseline_of(conclusion)}, in {counted} of {words} on"
        f" {conclusion.split}, with 95 % intervals over seeds and images; {errors}."
    )


def sentences(conclusion: Conclusion) -> list[str]:
    """What is undecided and what would settle it, what did not finish, where losses disagree."""
    names = [cut(name, MOST_LETTERS) for name in names_of(conclusion)]
    named = list(zip(conclusion.rows, names, strict=True))
    open_ones = [
        f"{name} ({needs_words(row.compared, conclusion)})"
        for row, name in named
        if row.compared is not None and row.compared.word == "undecided" and row.compared.needs
    ]
    ended = [f"{name} ({row.ended})" for row, name in named if row.ended]
    apart = [n for row, n in named if row.compared is not None and row.compared.disagrees]
    words = metric_words(conclusion.metric)
    return [
        *_listed("Undecided, and what would settle it: ", open_ones),
        *_listed("Not every seed came through; those count with a guesser's score: ", ended),
        *_listed(f"Loss and {words} point different ways: ", apart),
    ]


def _listed(said: str, names: Sequence[str]) -> list[str]:
    left = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return [f"{said}{', '.join(names[:MOST_LISTED])}{left}."] if names else []
