"""What of a `.wandb` file may go to W&B, and where to: somebody else may have written it.

It names files by their paths, and the project they go to; sent is what lies in its run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lrexp.config.names import conf_folder
from lrexp.record.wandb.client import prepared
from lrexp.record.wandb.file import artifact_files, records
from lrexp.runs.run import read_yaml

# Kinds of records that our recorder makes its client write; others would read or delete folders,
# or link and start things at W&B.
KINDS = {
    *("header", "footer", "run", "config", "history", "summary", "metric", "stats", "telemetry"),
    *("files", "artifact", "alert", "exit", "final", "preempting", "environment"),
    *("output", "output_raw", "request"),
}
REQUESTS = {
    *("log_artifact", "run_start", "defer", "partial_history", "summary_record"),
    *("telemetry_record", "status_report", "keepalive"),
}
MOST_BYTES = 2**30  # of a `.wandb` file, which is read at once


def why_not(file: Path, base: Path) -> str:
    """Why a `.wandb` file may not be sent: what it would read besides its run; else empty.

    Args:
        file: of a run, in its run folder.
        base: where relative paths in it begin.
    """
    run = file.parent.parent.parent.resolve()
    files = file.parent / "files"
    for folder, folders, names in os.walk(file.parent):
        if folder == str(file.parent) and "logs" in folders:
            folders.remove("logs")  # which nobody sends: a killed client leaves a link in it
        for name in (*folders, *names):
            if (path := Path(folder, name)).is_symlink():
                return f"{path.relative_to(file.parent)} is a link"
    for record in records(file):
        kind = record.WhichOneof("record_type")
        asked = record.request.WhichOneof("request_type") if kind == "request" else None
        if kind not in KINDS or (asked and asked not in REQUESTS):
            return f"it holds what no run of lrexp records: {asked or kind}"
        for item in record.files.files:
            if not (files / item.path).resolve().is_relative_to(files.resolve()):
                return f"it names a file outside of the run's folder: {item.path}"
        logged = record.request.log_artifact
        if logged.staging_dir or any(
            artifact.manifest.manifest_file_path for artifact in (record.artifact, logged.artifact)
        ):
            return "the files of its artifact are listed elsewhere"
    for path, _ in artifact_files(file):
        if not (base / path).resolve().is_relative_to(run):
            return f"its artifact has a file outside of the run's folder: {path}"
    return ""


def destinations(file: Path) -> set[str]:
    """ENTITY/PROJECT, or PROJECT alone, of all that a `.wandb` file sends."""
    found: set[str] = set()
    for record in records(file):
        sent = (record.artifact, record.request.log_artifact.artifact, record.request.run_start.run)
        for part in (record.run, *sent):
            if part.project or part.entity:
                found.add(f"{part.entity}/{part.project}" if part.entity else part.project)
    return found


def usual_destinations() -> set[str]:
    """Where the user's own variables, W&B's settings and conf/ ask for runs to go."""
    own = prepared()
    conf = read_yaml(conf_folder() / "logger" / "wandb.yaml") or {}
    project, entity = own.project or conf.get("project"), own.entity or conf.get("entity")
    return {str(project), *([f"{entity}/{project}"] if entity else [])}


def unasked(found: Iterable[str], usual: Collection[str]) -> list[str]:
    """Those destinations that nobody asked for."""
    return sorted(set(found) - set(usual))


@contextmanager
def neutral_folder(files: Iterable[Path], base: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """An empty working directory for the client, with links to what artifacts name by relative
    paths and nothing else; and an environment in which it imports and reads nothing from there.

    Args:
        files: `.wandb` files.
        base: where relative paths in them begin.
    """
    relative = [path for file in files for path, _ in artifact_files(file) if path[:1] != "/"]
    with TemporaryDirectory() as temporary:
        here = Path(temporary, "of-client")
        here.mkdir()
        for _ in range(max((Path(path).parts.count("..") for path in relative), default=0)):
            here /= "x"
            here.mkdir()
        for path in dict.fromkeys(relative):
            link = Path(os.path.normpath(here / path))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((base / path).resolve())
        environment: dict[str, Any] = {**os.environ, "WANDB_BASE_URL": prepared().base_url}
        environment.pop("WANDB_SERVICE", None)  # of this program, which reads files from elsewhere
        environment["WANDB_DIR"] = str(Path(temporary, "settings"))  # none are there
        paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths))
        os.mkdir(environment["WANDB_DIR"])
        yield here, environment
