"""The page on the Python API: its blocks run as they stand."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from conftest import ROOT
from unchanged import nothing_changed

BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMES = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[a-z0-9]{8}"


@pytest.mark.slow
def test_blocks_say_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / "docs" / "python.md").read_text())
    assert [kind for kind, _ in blocks] == ["python", "text"] * 5
    names: dict[str, object] = {}
    for (_, code), (_, told) in zip(blocks[::2], blocks[1::2], strict=True):
        said = io.StringIO()
        with nothing_changed(), contextlib.redirect_stdout(said):
            exec(code, names)
        last = said.getvalue().splitlines()[-len(told.splitlines()) :]
        assert compared("\n".join(last)) == compared(told.rstrip())


def compared(text: str) -> str:
    """Without times and ids, and numbers as far as another machine has the same."""
    return re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):.1f}", re.sub(TIMES, "T", text))
