"""What W&B shows of a run beside its curves: plan, mistakes, report, weights; files stay in place.

Tables go into the run's summary: no row of the history is spent on them, so that row k is epoch k.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from lrexp.folder.layout import (
    CHECKPOINTS,
    CONFIG,
    CONFUSION,
    ENVIRONMENT,
    PLAN,
    PLAN_TABLE,
    REPORT,
    WRONG_IMAGES,
)
from lrexp.plan.plan import Plan, Row
from lrexp.record.wandb.start import without_home
from lrexp.runs.run import read_table

# of a plan's columns, by the type of the field
CELLS = {t.__name__: t for t in (str, int, float, bool)} | {
    "tuple[int, ...]": str,
    "int | None": int,
}
MISTAKE = {"split": str, "true": str, "predicted": str, "images": int}
PICTURE = {"item": str, "true": str, "predicted": str, "score": float, "true_score": float}
ARTIFACT_FILES = (CONFIG, PLAN, ENVIRONMENT)


def log_plan(run: Any, plan: Plan) -> None:
    """The plan as a table `plan`."""
    import wandb

    columns = fields(Row)
    table = wandb.Table(
        columns=[column.name for column in columns],
        dtype=[CELLS[str(column.type)] for column in columns],
        optional=[str(column.type).endswith("None") for column in columns],
    )
    for row in plan.rows:  # not by add_data, which looks into the type of every cell
        cells = vars(row) | {"shape": "x".join(map(str, row.shape))}
        table.data.append([cells[column.name] for column in columns])
    _log_table(run, "plan", table, PLAN_TABLE)


def log_mistakes(run: Any, folder: Path) -> None:
    """Tables `confusion` (pairs of classes that occur) and `wrong_images`, as far as they exist."""
    import wandb

    pairs = [
        [line["split"], line["true"], predicted, int(count)]
        for line in read_table(folder / CONFUSION, [])
        for predicted, count in line.items()
        if predicted not in ("split", "true") and int(count)
    ]
    if pairs:
        table = wandb.Table(columns=list(MISTAKE), dtype=list(MISTAKE.values()))
        table.data = pairs
        _log_table(run, "confusion", table, "confusion.table.json")
    if (folder / WRONG_IMAGES).is_file():
        _log_pictures(run, folder / WRONG_IMAGES)


def _log_pictures(run: Any, file: Path) -> None:
    import numpy as np
    import wandb
    from PIL import Image

    with np.load(file, allow_pickle=False) as kept:
        found = {key: kept[key] for key in kept.files}
    place = Path(run.settings.sync_dir) / "wrong_images"
    place.mkdir(exist_ok=True)
    table, pictures = wandb.Table(columns=["image", "split", *PICTURE, "loss"]), []
    for i, pixels in enumerate(found["images"]):
        picture = place / f"{i:02d}.png"
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(picture)
        pictures.append(picture)
        cells = [kind(found[name][i]) for name, kind in PICTURE.items()]
        image = wandb.Image(os.path.relpath(picture))
        table.add_data(image, str(found["split"]), *without_home(cells), float(found["loss"][i]))
    _log_table(run, "wrong_images", table, "wrong_images.table.json", pictures)


def log_report(run: Any, folder: Path) -> None:
    """report.html among the run's files."""
    if (folder / REPORT).is_file():
        shutil.copyfile(folder / REPORT, Path(run.dir) / REPORT)  # a link would break in a move
        run.save(Path(run.dir) / REPORT, base_path=run.dir, policy="now", glob=False)


def log_weights(
    run: Any, folder: Path, which: str, summary: dict[str, Any], name: str, monitor: str
) -> None:
    """Checkpoint `which`, config and plan as one artifact."""
    import wandb

    checkpoint = folder / CHECKPOINTS / f"{which}.pt"
    if not checkpoint.is_file():
        return
    row = summary[which]
    metadata = {"config_id": summary["config_id"], "plan_hash": summary["plan_hash"]}
    metadata |= {"epoch": row.get("epoch"), monitor: row.get(monitor)}
    metadata |= {"status": summary["status"]}
    artifact = wandb.Artifact(f"{name}-{run.id}"[:128], "model", metadata=metadata)
    for file in (checkpoint, *(folder / name for name in ARTIFACT_FILES)):
        if file.is_file():
            _add(artifact, file)
    _publish(run, artifact, [which])


def _log_table(run: Any, key: str, table: Any, name: str, pictures: list[Path] | None = None):
    """What `run.summary[key] = table` does, except that its files lie in the run's folder.

    Below the home folder they could be cleaned away before a sync.
    """
    from wandb.sdk.artifacts._internal_artifact import InternalArtifact

    artifact = InternalArtifact(f"run-{run.id}-{key}", "run_table")
    for picture in pictures or ():  # before the table, which takes those that are there
        _add(artifact, picture, f"media/images/{picture.name}")
    file = Path(run.settings.sync_dir) / name
    file.write_text(json.dumps(table.to_json(artifact)), encoding="utf-8")
    _add(artifact, file)
    table._set_artifact_target(artifact, file.name)
    _publish(run, artifact, [])
    table.bind_to_run(run, key, "summary")
    run.summary[key] = table


def _add(artifact: Any, file: Path, name: str | None = None) -> None:
    """By its path as seen from here: what W&B writes down then names no home folder."""
    artifact.add_file(os.path.relpath(file), name, policy="immutable", skip_cache=True)


def _publish(run: Any, artifact: Any, aliases: list[str]) -> None:
    """`run.log_artifact` without its question to the server for the type of the artifact.

    In an outage it would hold up the run, and the artifact would be lost. Without it the artifact
    goes the way of the rows: on disk at once, sent when the server takes it. Were it created by the
    user, in the client's terms, the server would not count it among what the run has logged.
    """
    artifact, aliases = run._prepare_artifact(artifact, None, None, ["latest", *aliases])
    run._interface.publish_artifact(
        run, artifact, aliases, [], finalize=True, is_user_created=False, use_after_commit=False
    )
