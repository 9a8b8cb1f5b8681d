"""Inputs that nobody would type: how many ran, and which were answered badly.

    python scripts/fuzz.py [--lines 500] [--files 500] [--damages 2000] [--states 500]
        [--reports 300] [--seed 0] [--seconds 600]

Needs hypothesis. Command lines and YAML files go through lrexp's own main() in one program, in a
folder of their own; files of a run are cut and changed byte by byte and read. Prints a table of
kinds, and every kind of complaint once with its input; exit 1 when there is one.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fuzzing  # noqa: E402  after the path is known


def run(count: int, strategy: Any, seed: int, until: float, judge: Callable[[Any], str]) -> Any:
    """Judge so many inputs, or as many as there is time for: (how many ran, complaint → inputs)."""
    if not count:
        return 0, {}
    ran, found = itertools.count(), collections.defaultdict[str, list[Any]](list)

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(value: Any) -> None:
        if time.monotonic() < until:
            next(ran)
            if said := judge(value):
                found[said[:60]].append((value, said))

    each()
    return next(ran), found


def kinds(arguments: argparse.Namespace) -> Iterator[tuple[str, int, Any, Callable[[Any], str]]]:
    """(name, how many, strategy, judge) of every kind of input."""
    yield (
        "command lines",
        arguments.lines,
        fuzzing.command_lines,
        fuzzing.complaint,
    )
    Path("cfg/experiment").mkdir(parents=True)

    def judge_file(content: str | bytes) -> str:
        data = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
        Path("cfg/experiment/e.yaml").write_bytes(data)
        return fuzzing.complaint(["--config-dir", "cfg", "experiment=e", "task=plan"])

    yield "YAML files", arguments.files, fuzzing.files, judge_file
    folder = Path("run")
    fuzzing.make_run(folder)
    originals = {name: (folder / name).read_bytes() for name in fuzzing.DAMAGED}
    for name in fuzzing.DAMAGED:

        def judge_damage(damage: Any, name: str = name) -> str:
            (folder / name).write_bytes(fuzzing.damaged(originals[name], *damage))
            return fuzzing.damage_complaint(folder, name)

        each = arguments.damages // len(fuzzing.DAMAGED)
        yield f"damaged {name}", each, fuzzing.damages, judge_damage
        fuzzing.restore(folder, originals)
    last, previous, whole = fuzzing.two_states(folder)

    def judge_states(damages: Any) -> str:
        contents = [fuzzing.damaged(f, *d) for f, d in zip((last, previous), damages, strict=True)]
        return fuzzing.state_complaint(folder / "states", contents[0], contents[1], whole)

    pairs = st.tuples(fuzzing.damages, fuzzing.damages)
    yield "damaged last.pt and previous.pt", arguments.states, pairs, judge_states
    (sweep := Path("sweep")).mkdir()
    fuzzing.make_sweep(sweep)
    places = [(folder, name) for name in fuzzing.REPORTED]
    places += [(sweep, name) for name in fuzzing.REPORTED_SWEEP]
    for place, name in places:
        original = (place / name).read_bytes()

        def judge_report(
            damage: Any, place: Path = place, name: str = name, original: bytes = original
        ) -> str:
            (place / name).write_bytes(fuzzing.damaged(original, *damage))
            return fuzzing.report_complaint(place)

        each = arguments.reports // len(places)
        yield f"reports, damaged {name}", each, fuzzing.damages, judge_report
        (place / name).write_bytes(original)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    counts = {"lines": 500, "files": 500, "damages": 2000, "states": 500, "reports": 300}
    counts |= {"seed": 0}
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=600.0, help="stop after so long")
    arguments = parser.parse_args()
    until, random_seed, wrong = time.monotonic() + arguments.seconds, arguments.seed, 0
    random.seed(random_seed)
    warnings.simplefilter("ignore")
    logging.raiseExceptions = False
    logging.getLogger("lrexp.folder.checkpoint").setLevel(
        logging.ERROR
    )  # says what it falls back to
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for kind, count, strategy, judge in kinds(arguments):
            started = time.monotonic()
            ran, found = run(count, strategy, random_seed, until, judge)
            bad = sum(map(len, found.values()))
            took_s = time.monotonic() - started
            print(f"{kind:<36} {ran:>6} inputs {bad:>4} bad answers {took_s:>7.1f} s", flush=True)
            for values in found.values():
                value, said = min(values, key=lambda pair: len(repr(pair[0])))
                print(f"    {len(values)} × {said}\n        {value!r:.400}", flush=True)
            wrong += bad
        os.chdir("/")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
