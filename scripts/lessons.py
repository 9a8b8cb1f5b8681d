"""What tutorials on learning rates claim, measured: claim, figures, verdict.

    python scripts/lessons.py [--only NAME ...] [--out FOLDER] [--markdown] [DATA]

Every lesson is an experiment, conf/experiment/lessons/NAME.yaml, whose first lines give its
question, its commands and what is checked. This trains the same runs through the session of
`lrexp -m` (what FOLDER has is only read: it goes on where it was stopped), judges them with the
statistics of `lrexp confirm`, and prints the claim, the figures with 95 % intervals, and whether it
*holds*, *does not hold*, or is *undecided here*. p is after Holm over a lesson's questions. The
networks are small: what does not hold here may hold elsewhere.

DATA holds gtsrb32/ for the lesson on leakage; without it digits with planted copies take its place.
A few minutes on a quiet core. The exit code is 1 when a verdict is another than the expected one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from lesson.judging import Finding, block, table
from lesson.table import LESSONS, question, run


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA")
    parser.add_argument("--only", choices=LESSONS, action="append", metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("outputs/lessons"), metavar="FOLDER")
    parser.add_argument("--markdown", action="store_true", help="a table, in the end")
    asked = parser.parse_args(argv)
    out, data = asked.out.resolve(), asked.data and asked.data.resolve()
    out.mkdir(parents=True, exist_ok=True)
    rows, began = list[tuple[str, Finding]](), time.monotonic()
    for name in asked.only or LESSONS:
        found = run(name, out, data)
        rows += [(name, one) for one in found]
        if not asked.markdown:
            print("\n".join(block(name, question(name), found)), flush=True)
    if asked.markdown:
        print("\n".join(table(rows)))
    else:
        odd = sum(one.surprising for _, one in rows)
        how = f"{odd} otherwise than expected" if odd else "all as expected"
        print(f"{len(rows)} claims, {how}, {time.monotonic() - began:.0f} s; runs in {out}")
    return int(any(one.surprising for _, one in rows))


if __name__ == "__main__":
    sys.exit(main())
