"""Every file name of a run folder and of a sweep's, spelled once."""

from __future__ import annotations

from lrexp.config.names import BEST as BEST
from lrexp.config.names import CHECKPOINTS as CHECKPOINTS
from lrexp.config.names import CONFIG as CONFIG
from lrexp.config.names import PLAN as PLAN

# of a run
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"  # a row per epoch
ENVIRONMENT = "environment.json"
SCHEDULE = "schedule.csv"  # planned rates by step
LAST, PREVIOUS = "last.pt", "previous.pt"  # in CHECKPOINTS, beside BEST
PREDICTIONS = "predictions.parquet"
PER_CLASS = "per_class.csv"
CONFUSION = "confusion.csv"
WRONG_IMAGES = "wrong_images.npz"
DIFF = "code.diff"  # when the checkout has changes that no commit has
LOG = "lrexp.log"
WANDB = "wandb"
PLAN_TABLE = "plan.table.json"  # in W&B's own folder of a run
HYDRA = ".hydra"
OVERRIDES, HYDRA_CONFIG = "overrides.yaml", "hydra.yaml"  # in HYDRA

# of a sweep
POINTS = "points.json"
LEADERBOARD, LEADERBOARD_TABLE = "leaderboard.json", "leaderboard.csv"
CASES = "cases.yaml"
MULTIRUN = "multirun.yaml"
EARLIER = "earlier"  # folder that keeps what former attempts at a point left
WANDB_REPORT = "wandb_report.json"  # which report at W&B is the sweep's own

# of both
REPORT = "report.html"
PLOTS = "plots"
LOCK = ".lock"
