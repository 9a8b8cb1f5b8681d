"""The verdicts on a run in its report: the headline, all of them with evidence, the marks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lrexp.folder.layout import SUMMARY
from lrexp.report.figure import Mark
from lrexp.report.run.findings import finding_marks, findings, first_finding
from lrexp.runs.run import Run, read_run


def verdict(kind: str, severity: str = "warning", epochs: Any = (), **values: float) -> Any:
    evidence = {"epochs": list(epochs), "values": values, "threshold": {"steady": 0.9}}
    said = {"message": f"it is {kind}", "advice": "lower <the> rate"}
    return {"kind": kind, "severity": severity, **said, "evidence": evidence}


def run_with(*verdicts: Any) -> Run:
    rows = [{"epoch": epoch} for epoch in range(1, 20)]
    return Run(Path(), summary={"verdicts": list(verdicts)}, rows=rows)


def test_the_headline_is_what_nothing_else_says() -> None:
    slow = verdict("too_slow")
    assert first_finding(run_with(slow, verdict("leak"))) == slow
    for kind in ("diverged", "collapsed", "dead", "overfitting"):  # sentences of their own
        assert first_finding(run_with(verdict(kind), slow)) == {}
    assert first_finding(run_with(verdict("healthy", "info"))) == {}
    assert first_finding(run_with()) == {}


def test_curves_are_marked_where_it_happened() -> None:
    marks = finding_marks(
        run_with(
            verdict("collapsed", "error", [7]),
            verdict("unstable", epochs=[3, 5]),
            verdict("too_slow", epochs=[4, 8]),
            verdict("overfitting", epochs=[2, 9]),
        )
    )
    assert [(m.x, m.label, m.kind) for m in marks] == [
        (7, "collapsed", "bad"), (3, "unstable", "note"), (5, "unstable", "note"),
        (4, "slow since", "note"),
    ]  # fmt: skip
    assert len(finding_marks(run_with(verdict("unstable", epochs=range(1, 60))))) == 8


def test_every_verdict_stands_with_its_evidence() -> None:
    said = findings(run_with(verdict("too_slow", epochs=[4, 8], steady=1.0, accuracy_gained=0.155)))
    assert "too slow" in said
    assert "(warning, epochs 4, 8)" in said
    assert "It is too_slow. Lower &lt;the&gt; rate." in said
    assert "steady 1 (0.9), accuracy gained 0.155" in said
    assert findings(run_with()) == ""


def test_verdicts_of_older_runs_are_shown_as_they_are() -> None:
    older = {"kind": "learned_nothing", "message": "learned nothing", "evidence": {"epoch": 3}}
    assert "learned nothing" in findings(run_with(older))
    assert finding_marks(run_with(older)) == []
    assert finding_marks(run_with({"kind": "leak", "evidence": None})) == []


def test_verdicts_of_others_may_hold_anything(tmp_path: Path) -> None:
    odd = [{"kind": "leak", "evidence": "of"}, {"kind": "dead", "evidence": [1, {}]}]
    assert finding_marks(run_with(*odd, verdict("unstable", epochs=[10**400, 4]))) == [
        Mark(4, "unstable", "note")
    ]
    assert "leak" in findings(run_with(*odd))
    (tmp_path / SUMMARY).write_text(json.dumps({"verdicts": ["dead", None, odd[0], {"kind": []}]}))
    assert read_run(tmp_path).summary["verdicts"] == [odd[0]]
