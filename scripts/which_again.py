"""Whether `lrexp which` says the same again from other seeds, and what comparisons say of equals.

    python scripts/which_again.py which FOLDER [KEY=VALUE ...] [--times 5] [--policies a,b]
    python scripts/which_again.py aa SWEEP [--names 5] [--tries 2000] [--margin 0.02]

The first runs `lrexp which` from seeds 0, 100, 200, ... in FOLDER (what has ended there is read,
what was stopped goes on), and prints the word on every policy by starting seed, how often the most
frequent one was said, and which policy came out best.

The second takes the runs of one configuration over many seeds, such as those of

    python -m lrexp -m experiment=finetune_digits 'seed=range(1000,1100)' hydra.sweep.dir=SWEEP

deals them out to several names at random, and compares the names as `lrexp confirm` (10 seeds) and
`lrexp which` (5, 10 and 20 seeds) do. All names are the same policy: whatever is called better or
worse is a false claim. The deals share their runs, so the shares are less sure than so many tries
sound. It exits with 1 where more than 5 % (and two standard errors) of deals have a false claim.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from lrexp.judge.comparison import Compared, Images, Scores, compare
from lrexp.judge.looks import LOOKS, looked

POLICIES = "uniform,layerwise_decay,per_layer,freeze_backbone,lp_ft"
CONFIRMED = 10


def again(folder: Path, times: int, policies: str, margin: float, overrides: list[str]) -> None:
    from lrexp.report.comparison.files import read_conclusion

    words: dict[str, list[str]] = {}
    best, runs = [], []
    for i in range(times):
        one = folder / f"seed_{100 * i}"
        asked = [*overrides, f"seed={100 * i}", f"hydra.run.dir={one.resolve()}"]
        command = [*asked, "--policies", policies, "--margin", str(margin)]
        if one.is_dir():
            command = ["--resume", str(one)]
        if not (one / "comparison.json").is_file() or not read_conclusion(one).finished:
            subprocess.run([sys.executable, "-m", "lrexp", "which", *command], check=True)
        found = read_conclusion(one)
        print(f"seed {100 * i}: {found.sentence}")
        best.append(found.rows[0].name)
        runs.append(dict(found.cost))
        for row in found.rows:
            if row.compared:
                low, high = (100 * end for end in row.compared.interval)
                said = f"{row.compared.word} [{low:.1f}, {high:.1f}]"
                words.setdefault(row.name, []).append(said)
    print("\nin points against the baseline, by starting seed")
    for name, said in words.items():
        counts = Counter(one.partition(" [")[0] for one in said)
        word, often = counts.most_common(1)[0]
        print(f"{name:<20} {'; '.join(said)}\n{'':<20} {word}: {often} of {len(said)}")
    name, often = Counter(best).most_common(1)[0]
    print(f"\nbest: {', '.join(best)} ({name}: {often} of {times})")
    for i, cost in enumerate(runs):
        print(f"seed {100 * i}: {'; '.join(f'{what} {much}' for what, much in cost.items())}")


def equals(sweep: Path, names: int, tries: int, margin: float) -> int:
    from lrexp.folder.layout import PREDICTIONS
    from lrexp.runs.predictions import read_predictions
    from lrexp.runs.sweep import FINISHED, read_sweep

    points = [point for point in read_sweep(sweep).points if point.status == FINISHED]
    read = [read_predictions(sweep / point.folder / PREDICTIONS, "test") for point in points]
    found = [one for one in read if one is not None]
    right = np.stack([one.right for one in found]).astype(float)  # (runs, n)
    losses = np.stack([one.losses for one in found])
    most = min(LOOKS[-1], len(right) // names)
    accuracy = right.mean(axis=1)
    print(
        f"{len(right)} runs, {right.shape[1]} test images, accuracy {100 * accuracy.mean():.1f} ±"
        f" {100 * accuracy.std(ddof=1):.1f} points from seed to seed; {names} names, {tries} deals"
    )
    rng, code = np.random.default_rng(0), 0
    kinds = {f"confirm, {min(CONFIRMED, most)} seeds": 0, f"which, looks to {most} seeds": 0}
    same, noise = Counter[str](), []
    for _ in range(tries):
        dealt = rng.permutation(len(right))[: names * most].reshape(names, most)
        scores = {str(i): Scores(right[one], losses[one]) for i, one in enumerate(dealt)}
        first = {name: one.first(CONFIRMED) for name, one in scores.items()}
        looks = [at for at in LOOKS if at <= most]
        both: list[list[Compared]] = [
            compare(first, "0", Images(), margin, plan=False),
            looked(scores, "0", Images(), margin, looks, plan=False),
        ]
        noise += [one.difference for one in both[0]]
        for kind, compared in zip(kinds, both, strict=True):
            kinds[kind] += any(one.word in ("better", "worse") for one in compared)
            same[kind] += sum(one.word == "no difference" for one in compared)
    for kind, false in kinds.items():
        limit = 0.05 + 2 * (0.05 * 0.95 / tries) ** 0.5
        code |= false / tries > limit
        within = 100 * same[kind] / tries / (names - 1)
        claims = f"{100 * false / tries:.1f} % of deals claim something"
        print(f"{kind}: {claims}; no difference {within:.0f} %")
    parts = [[d.seed_variance, d.image_variance, d.residual_variance] for d in noise]
    seed, image, both_ = np.sqrt(np.mean(parts, axis=0))
    print(f"of differences: s_seed {seed:.4f}, s_image {image:.4f}, s_residual {both_:.4f}")
    return int(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("which", "aa"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--policies", default=POLICIES)
    parser.add_argument("--margin", type=float, default=0.02)
    parser.add_argument("--names", type=int, default=5)
    parser.add_argument("--tries", type=int, default=2000)
    args = parser.parse_intermixed_args()
    if args.what == "aa":
        sys.exit(equals(args.folder, args.names, args.tries, args.margin))
    overrides = args.overrides or ["experiment=finetune_digits"]
    again(args.folder, args.times, args.policies, args.margin, overrides)


if __name__ == "__main__":
    main()
