"""Every file name of a run folder and of a sweep's, spelled once."""

from __future__ import annotations

from typing import Any

from lrexp.config.names import BEST as BEST
from lrexp.config.names import CHECKPOINTS as CHECKPOINTS
from lrexp.config.names import CONFIG as CONFIG
from lrexp.config.names import PLAN as PLAN

# of a run
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"  # a row per epoch
ENVIRONMENT = "environment.json"
SCHEDULE = "schedule.csv"  # planned rates by step
RATES = "rates.png"  # of a plan: every group's rate over the epochs
RANGE_TEST = "range_test.csv"  # of a range test: the loss of every step, seed by seed
RANGE_PICTURE = "range_test.png"
LAST, PREVIOUS = "last.pt", "previous.pt"  # in CHECKPOINTS, beside BEST
PREDICTIONS = "predictions.parquet"
PER_CLASS = "per_class.csv"
EXPORT = "exported"  # folder: the network for programs without lrexp
CONFUSION = "confusion.csv"
WRONG_IMAGES = "wrong_images.npz"
DIFF = "code.diff"  # when the checkout has changes that no commit has
LOG = "lrexp.log"
WANDB = "wandb"
PLAN_TABLE = "plan.table.json"  # in W&B's own folder of a run
FEATURES = ".features-"  # begins the name of a folder that is there while it trains, if at all
HYDRA = ".hydra"
OVERRIDES, HYDRA_CONFIG = "overrides.yaml", "hydra.yaml"  # in HYDRA
OF_HYDRA = (CONFIG, OVERRIDES, HYDRA_CONFIG)

# of a sweep
POINTS, POINTS_TABLE = "points.json", "points.csv"
LEADERBOARD, LEADERBOARD_TABLE = "leaderboard.json", "leaderboard.csv"
CASES = "cases.yaml"
SOURCES = "sources.txt"  # what its points were composed from, as digests
STUDY = "study.db"  # of Optuna, where its trials are kept in the sweep's folder
RERUN = "rerun.yaml"  # the saved config that a grid was made around
MULTIRUN = "multirun.yaml"
JOBS = "jobs"  # folder: what an engine keeps of its jobs, and what they say
EARLIER = "earlier"  # folder that keeps what former attempts at a point left
WANDB_REPORT = "wandb_report.json"  # which report at W&B is the sweep's own

# of a comparison; the first two where a sweep's best configurations are trained again
CONFIRM = "-confirm"  # ends the folder's name, which begins as the sweep's
PROTOCOL = "protocol.json"  # what is compared and how, written before anything is trained
WHICH = "which.html"
COMPARISON = "comparison.json"
COMPARISON_TABLES = ("comparison.csv", "comparison.md", "comparison.tex")  # of its rows
EXPLORED, CONFIRMED = (
    "explored",
    "confirmed",
)  # sweeps: the tries of every policy, and its best again
STEPS = "steps.json"  # how many runs were trained at a time, and how long that took
OF_COMPARISON = (WHICH, COMPARISON, *COMPARISON_TABLES)
OF_WHICH = (PROTOCOL, STEPS, *OF_COMPARISON)

# of a test of layers
LAYER_TEST, LAYER_TABLE = "layer_test.json", "layer_test.csv"
LAYER_POLICY = "lr_policy/layer_test.yaml"  # with --config-dir FOLDER: lr_policy=layer_test
LAYER_RUNS, LAYER_CHECK = "one_by_one", "combined"  # sweeps: layer by layer; all that helps

# of both
REPORT = "report.html"
PLOTS = "plots"
LOCK = ".lock"
OWNER, NEXT_OWNER = ".owner", ".owner.next"  # who holds it, and who is about to instead
OF_CLAIM = (LOCK, OWNER, NEXT_OWNER)

# What a run writes into its folder, a sweep into its own. A folder on the list is the run's as a
# whole.
OF_RUN = (
    *(SUMMARY, METRICS, CONFIG, PLAN, ENVIRONMENT, DIFF, SCHEDULE, RATES, REPORT),
    *(RANGE_TEST, RANGE_PICTURE),
    *(PREDICTIONS, PER_CLASS, CONFUSION, WRONG_IMAGES, WANDB),
    *(f"{CHECKPOINTS}/{name}" for name in (LAST, BEST, PREVIOUS)),
    *(LOG, *(f"{HYDRA}/{name}" for name in OF_HYDRA)),
)
OF_SWEEP = (
    *(POINTS, POINTS_TABLE, LEADERBOARD, LEADERBOARD_TABLE),
    *(CASES, SOURCES, RERUN, MULTIRUN, WANDB_REPORT, REPORT, JOBS),
)
OF_LAYER_TEST = (PROTOCOL, LAYER_TEST, LAYER_TABLE, LAYER_POLICY, REPORT)
FOLDERS_OF_LAYER_TEST = (LAYER_POLICY.partition("/")[0], LAYER_RUNS, LAYER_CHECK, PLOTS)


def names_of_run(hydra: Any) -> tuple[str, ...]:
    """What a run with this `hydra` section writes: it may call the log and Hydra's otherwise."""
    names = [*OF_RUN, f"{hydra.job.name}.log"]
    if hydra.output_subdir is not None:
        names += (f"{hydra.output_subdir}/{name}" for name in OF_HYDRA)
    return tuple(dict.fromkeys(names))
