"""which.html: what a comparison came to, and the files beside it."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from lrexp.folder.files import refuse_foreign, write_atomically
from lrexp.folder.layout import COMPARISON, COMPARISON_TABLES, WHICH
from lrexp.judge.conclusion import Conclusion
from lrexp.report.comparison.files import (
    CSV_MARK,
    JSON_MARK,
    TEXT_MARK,
    comparison_csv,
    comparison_json,
    comparison_markdown,
    comparison_tex,
)
from lrexp.report.comparison.words import NUMBERS, table_of
from lrexp.report.html.page import MARK, Column, Section, page, table, tags, without_home


def write_conclusion(folder: Path, conclusion: Conclusion) -> Path:
    """Write which.html, comparison.json and the table as CSV, Markdown and LaTeX into a folder.

    Each file is replaced as a whole.

    Returns:
        The page.

    Raises:
        UserError: when one of them is there that lrexp did not write; then none is written.
        OSError: when they cannot be written.
    """
    table_csv, table_markdown, table_tex = (folder / name for name in COMPARISON_TABLES)
    made = {
        folder / COMPARISON: (JSON_MARK, comparison_json(conclusion)),
        table_csv: (CSV_MARK, comparison_csv(conclusion)),
        table_markdown: (TEXT_MARK, comparison_markdown(conclusion)),
        table_tex: (TEXT_MARK, comparison_tex(conclusion)),
        folder / WHICH: (MARK, conclusion_page(conclusion)),
    }
    for file, (mark, _) in made.items():
        refuse_foreign(file, mark)
    for file, (_, text) in made.items():
        write_atomically(file, text)
    return folder / WHICH


def conclusion_page(conclusion: Conclusion) -> str:
    """The whole page as HTML."""
    heads, *rows = table_of(conclusion)
    columns = [Column(head, number=key in NUMBERS) for key, head in heads.items()]
    top = tags.head([], conclusion.sentence, "", [tags.notes(list(conclusion.remarks))])
    sections = [
        Section("Table", table(columns, [list(row.values()) for row in rows]) if rows else Markup())
    ]
    return without_home(page(conclusion.sentence, top, sections, "comparison"))
