"""A conclusion as files: complete in JSON, its rows as CSV, and tables ready to paste."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lrexp import __version__
from lrexp.config.errors import UserError
from lrexp.folder.files import csv_text, strict_json
from lrexp.folder.layout import COMPARISON
from lrexp.judge.comparison import Compared
from lrexp.judge.conclusion import Conclusion, Row
from lrexp.judge.words import is_share
from lrexp.report.comparison.words import (
    NUMBERS,
    cut,
    is_deciding,
    names_of,
    one_line,
    reading,
    sentences,
    short_table_of,
    table_of,
)
from lrexp.runs.reading import json_of, text_of

SCHEMA = 1  # of comparison.json; grows when a field changes its name or meaning
JSON_MARK = '"schema": "lrexp comparison '  # in every file: what has it may be written anew
CSV_MARK = "configuration,settings,overrides,"
TEXT_MARK = "made by lrexp"
ENDLESS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
WIDE, MOST_LETTERS = 16, 32  # letters of a cell that LaTeX breaks into lines, and of a name
TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': "''", "`": r"\textasciigrave{}",
    "±": r"$\pm$", "−": "$-$", "–": "--", "—": "---", "…": r"\dots{}", "×": r"$\times$",
    "·": r"$\cdot$", "≥": r"$\geq$", "≤": r"$\leq$", "∞": r"$\infty$", "→": r"$\to$",
    "\N{REPLACEMENT CHARACTER}": "?",
}  # fmt: skip
T = TypeVar("T")


def comparison_json(conclusion: Conclusion) -> str:
    """Every number of a conclusion, by the names of its fields.

    Differences are in shares (0.02 is 2 points), times in seconds. Numbers that are not finite are
    "NaN", "Infinity" and "-Infinity".
    """
    head = {"schema": f"lrexp comparison {SCHEMA}", "lrexp": __version__}
    return strict_json(head | asdict(conclusion), indent=1) + "\n"


def read_conclusion(folder: Path) -> Conclusion:
    """The conclusion of a folder's comparison.json.

    Raises:
        UserError: when the file is none that this version reads.
        OSError: when there is none.
    """
    return read_as(Conclusion, folder / COMPARISON, f"lrexp comparison {SCHEMA}")


def read_as(
    kind: type[T], file: Path, schema: str, check: Callable[[T], object] = lambda found: None
) -> T:
    """A dataclass from a JSON file of ours that names its schema.

    Args:
        kind: the dataclass; lists are read as tuples, and fields it does not have are left out.
        file: to read.
        schema: as the file names it.
        check: raises ValueError for values that do not go together.

    Raises:
        UserError: when the file is none that this version reads.
        OSError: when there is none.
    """
    try:
        found = json_of(text_of(file))
        if not isinstance(found, dict) or found.get("schema") != schema:
            raise ValueError(f'its schema is not "{schema}"')
        made: T = _built(kind, found, "")
        check(made)
        return made
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def _built(kind: Any, value: Any, where: str) -> Any:
    """A value of a type, dataclasses and tuples of them included, from what JSON holds."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _built(inner[0], value, where)
    if is_dataclass(kind) and isinstance(value, Mapping):
        hints = get_type_hints(kind)
        known = {f.name for f in fields(kind)} & set(value)
        given = {name: _built(hints[name], value[name], f"{where}.{name}") for name in known}
        try:
            return kind(**given)  # type: ignore[operator]
        except TypeError as error:
            raise ValueError(f"{where or 'it'}: {error}") from None
    if origin in (tuple, Sequence) and isinstance(value, list):
        if origin is tuple and inner[-1] is not Ellipsis:
            if len(inner) != len(value):
                raise ValueError(f"{where}: {len(value)} values in place of {len(inner)}")
            return tuple(_built(k, v, where) for k, v in zip(inner, value, strict=True))
        return tuple(_built(inner[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is Literal and value in inner:
        return value
    if kind is float and isinstance(value, str) and value in ENDLESS:
        return ENDLESS[value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ValueError(f"{where.lstrip('.')}: {value!r:.40} is not what belongs there")


def comparison_csv(conclusion: Conclusion) -> str:
    """A row per configuration, best first; columns say their units, and what is missing is empty.

    Of a metric that is a share (1: all are right) scores and differences end in `_share`.
    """
    named = zip(conclusion.rows, names_of(conclusion), strict=True)
    columns = _csv_columns(conclusion)
    lines = [[_csv_cell(cell(row, name)) for cell in columns.values()] for row, name in named]
    return csv_text([columns, *lines])


def _csv_columns(conclusion: Conclusion) -> dict[str, Callable[[Row, str], Any]]:
    """By heading, what makes a cell of a row and its name."""
    unit = "_share" if is_share(conclusion.metric) else ""

    def found(pick: Callable[[Compared], Any]) -> Callable[[Row, str], Any]:
        return lambda row, _: None if row.compared is None else pick(row.compared)

    return {
        "configuration": lambda _, name: name,
        "settings": lambda row, _: row.settings,
        "overrides": lambda row, _: " ".join(row.overrides),
        "baseline": lambda row, _: row.baseline,
        "metric": lambda *_: conclusion.metric,
        "split": lambda *_: conclusion.split,
        "tries": lambda row, _: row.tries,
        "rate": lambda row, _: row.rate,
        "rate_lies": lambda row, _: row.edge,
        "seeds": lambda row, _: row.score.n,
        f"score_mean{unit}": lambda row, _: row.score.mean,
        f"score_std{unit}": lambda row, _: row.score.std,
        "loss_seeds": lambda row, _: row.loss.n,
        "loss_mean": lambda row, _: row.loss.mean,
        "loss_std": lambda row, _: row.loss.std,
        f"difference{unit}": found(lambda c: c.difference.mean),
        f"difference_se{unit}": found(lambda c: c.difference.se),
        "difference_df": found(lambda c: c.difference.df),
        f"difference_low95{unit}": found(lambda c: c.interval[0]),
        f"difference_high95{unit}": found(lambda c: c.interval[1]),
        "p": found(lambda c: c.p),
        "p_adjusted": found(lambda c: c.p_adjusted),
        f"margin{unit}": lambda *_: conclusion.margin,
        "p_margin": found(lambda c: c.p_margin),
        "verdict": found(lambda c: c.word),
        "deciding": lambda *_: is_deciding(conclusion),
        "more_seeds_needed": found(lambda c: c.needs and c.needs.seeds),
        "images_needed": found(lambda c: c.needs and c.needs.images),
        "loss_difference": found(lambda c: c.loss and c.loss.mean),
        "loss_difference_se": found(lambda c: c.loss and c.loss.se),
        "loss_disagrees": found(lambda c: c.disagrees),
        "overfits": lambda row, _: row.overfits,
        "ended": lambda row, _: row.ended,
        "run_s": lambda row, _: row.took_s,
    }


def _csv_cell(value: Any) -> Any:
    """A cell of the CSV file; numbers come back as they were."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if not math.isnan(value) else ""
    return one_line(value) if isinstance(value, str) else value


def comparison_markdown(conclusion: Conclusion) -> str:
    """The sentence, the table, and what belongs beside it."""
    heads, *rows = (
        {key: escaped_markdown(cell) for key, cell in line.items()} for line in table_of(conclusion)
    )
    lines = [f"<!-- {TEXT_MARK} {__version__} -->", "", escaped_markdown(conclusion.sentence)]
    if rows:
        rule = {key: "--:" if key in NUMBERS else ":--" for key in heads}
        table = (heads, rule, *rows)
        lines += ["", *(f"| {' | '.join(line.values())} |" for line in table), ""]
        lines.append(escaped_markdown(" ".join([reading(conclusion), *sentences(conclusion)])))
    if conclusion.remarks:
        lines += ["", *(f"- {escaped_markdown(remark)}" for remark in conclusion.remarks)]
    return "\n".join(lines) + "\n"


def escaped_markdown(text: str) -> str:
    """Text of which Markdown makes neither markup nor another cell, on one line.

    >>> print(escaped_markdown("a_b | <c>"))
    a\\_b \\| \\<c\\>
    """
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", one_line(text))


def comparison_tex(conclusion: Conclusion) -> str:
    """The table as LaTeX, with booktabs; its caption says what belongs beside it."""
    heads, *rows = (
        {
            key: escaped_tex(cut(cell, MOST_LETTERS) if key == "name" else cell)
            for key, cell in line.items()
        }
        for line in short_table_of(conclusion)
    )
    told = [conclusion.sentence, reading(conclusion), *sentences(conclusion)]
    kinds = {key: "r" if key in NUMBERS else "l" for key in heads}
    if max((len(row.overfits) for row in conclusion.rows), default=0) > WIDE:
        kinds["overfits"] = r"p{0.2\linewidth}"
    body = [" & ".join(line.values()) + r" \\" for line in rows]
    return "\n".join(
        [
            f"% {TEXT_MARK} {__version__}; needs \\usepackage{{booktabs}}",
            r"\begin{table}",
            r"  \centering",
            r"  \footnotesize\setlength{\tabcolsep}{3pt}",
            f"  \\caption{{{escaped_tex(' '.join(told))}}}",
            r"  \par\smallskip",
            f"  \\begin{{tabular}}{{{''.join(kinds.values())}}}",
            r"    \toprule",
            f"    {' & '.join(heads.values())} \\\\",
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped_tex(text: str) -> str:
    """Text that LaTeX sets as it is, on one line.

    >>> print(escaped_tex("95.1 ± 0.4 % of lp_ft"))
    95.1 $\\pm$ 0.4 \\% of lp\\_ft
    """
    return "".join(TEX.get(character, character) for character in one_line(text))
