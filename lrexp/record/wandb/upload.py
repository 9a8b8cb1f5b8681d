"""Uploads of runs that were recorded without W&B's server, or that it did not take as a whole.

The client appends what it syncs to the rows that the server has. So it replays the files of a run
that the server knows nothing of; what is lacking of any other is sent from its run folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lrexp.config.errors import UserError
from lrexp.folder.claim import in_use
from lrexp.folder.layout import WANDB
from lrexp.record.wandb.allowed import MOST_BYTES, destinations, neutral_folder, why_not
from lrexp.record.wandb.client import not_arrived, taken, why_offline
from lrexp.record.wandb.file import (
    artifact_files,
    epochs,
    is_offline,
    mark_synced,
    run_record,
    runs_below,
    synced,
    unsent,
    uploading,
)
from lrexp.record.wandb.recorder import WandbRecorder
from lrexp.record.wandb.saved import saved_info, saved_settings
from lrexp.runs.reading import refuse_links
from lrexp.runs.run import is_sweep, read_run

QUIET_S = 600  # an upload that marks no run as done for so long is given up


@dataclass(frozen=True)
class Upload:
    """One `.wandb` file that has to be sent, or the run in whose folder it lies."""

    file: Path
    base: Path  # where relative paths in it begin
    problem: str = ""  # why it is not sent; empty when it is
    begun: bool = False  # W&B may have some of the run: what it lacks is sent from the run's folder
    to: str = ""  # project and server


def unsynced(folder: Path) -> list[Path]:
    """Files of runs that W&B lacks, wholly or in part, oldest first; links are not followed.

    Offline runs without the client's `.synced` mark, and online ones that ended before the server
    had every row.
    """
    found = []
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            file = Path(path, name)
            if not (name.startswith("run-") and name.endswith(".wandb")):
                continue
            if file.is_symlink() or not file.is_file() or file.stat().st_size > MOST_BYTES:
                continue
            if unsent(file).exists() or (is_offline(file) and not synced(file).exists()):
                found.append(file)
    return sorted(found, key=lambda file: file.parent.name.removeprefix("offline-"))


def uploads_below(folder: Path) -> list[Upload]:
    """What has to be sent, and whether it can be; a run that W&B may know is there once."""
    by_run: dict[tuple[Path, str], list[Path]] = {}
    for file in unsynced(folder):
        by_run.setdefault((_run_folder(file), file.stem.removeprefix("run-")), []).append(file)
    found: list[Upload] = []
    for (run, run_id), files in by_run.items():
        known = [f for f in runs_below(run, run_id) if not is_offline(f) or synced(f).exists()]
        if known or any(uploading(file).exists() for file in files):
            found.append(_checked_folder(files[-1]))
        else:
            found += map(checked, files)
    return found


def goes_to(upload: Upload) -> set[str]:
    """ENTITY/PROJECT, or PROJECT alone, of all that is sent of a run."""
    if not upload.begun:
        return destinations(upload.file)
    logger = read_run(upload.base).config["logger"]
    entity, project = logger.get("entity"), logger["project"]
    return {*destinations(upload.file), f"{entity}/{project}" if entity else str(project)}


def _checked_folder(file: Path) -> Upload:
    """Whether a run can be sent from its folder."""
    folder, problem = _run_folder(file), ""
    run = read_run(folder)
    try:
        refuse_links(folder, but=WANDB)  # whose client keeps a link to its log
        told = run_record(file)
    except (UserError, ValueError) as error:
        return Upload(file, folder, str(error), begun=True)
    if in_use(folder):
        problem = "it is still being written"
    elif not told.run_id:
        problem = "its file does not say which run it is"
    elif not (run.summary.get("status") and run.config.get("logger", {}).get("project")):
        problem = f"W&B has a part of it, and its run folder is damaged: {'; '.join(run.notes)}"
    return Upload(file, folder, problem, begun=True)


def checked(file: Path) -> Upload:
    """Whether a file can be sent as it is."""
    try:
        wanted = list(artifact_files(file))
    except ValueError as error:  # protobuf's, of what is no record
        return Upload(file, Path.cwd(), f"it cannot be read: {error}")
    base = _base(file, [path for path, _ in wanted])
    if foreign := why_not(file, base):
        return Upload(file, base, foreign)
    lost = [path for path, _ in wanted if not (base / path).is_file()]
    problem = ""
    if in_use(_run_folder(file)):
        problem = "it is still being written"
    elif lost:
        problem = f"a file of its artifact is gone: {lost[0]}"
    elif changed := [path for path, size in wanted if (base / path).stat().st_size != size]:
        problem = f"a file of its artifact has changed: {changed[0]}"
    return Upload(file, base, problem)


def _run_folder(file: Path) -> Path:
    return file.parent.parent.parent


def _base(file: Path, paths: list[str]) -> Path:
    """The folder that relative paths written down in a file begin at.

    It was the working directory of the run. The run's folder tells it, also after a move: the
    path of the run's own files ends with their place below the run's folder.
    """
    run = _run_folder(file)
    for path in map(Path, paths):
        for parent in () if path.is_absolute() else path.parents:
            if parent.name == run.name and (run / path.relative_to(parent)).is_file():
                return run.parents[len(parent.parts) - 1]
    return Path.cwd()


def send(uploads: list[Upload]) -> list[Upload]:
    """Send runs through the client; returns those that it did not send, and why."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    if why := why_offline():
        raise UserError(f"nothing was uploaded: {why}")
    left: list[Upload] = []
    columns = (TextColumn("uploads"), BarColumn(), MofNCompleteColumn())
    whole = [upload for upload in uploads if not upload.begun]
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=len(uploads))
        for base in dict.fromkeys(upload.base for upload in whole):
            here = [upload for upload in whole if upload.base == base]
            for upload in here:
                synced(upload.file).unlink(missing_ok=True)
                uploading(upload.file).touch()
            said = _client(here, base, lambda done: progress.update(task, advance=done))
            for upload in here:
                if not synced(upload.file).exists():
                    left.append(Upload(upload.file, base, said))
                elif lacks := _lacks(upload.file):  # the client marks what a server refused, too
                    synced(upload.file).unlink()
                    left.append(Upload(upload.file, base, lacks))
                else:
                    _mark_sent(upload.file)
        for upload in uploads:
            if upload.begun:
                if lacks := _send_folder(upload.file):
                    left.append(Upload(upload.file, upload.base, lacks))
                progress.update(task, advance=1)
    return left


def _lacks(file: Path) -> str:
    """What the server lacks of a file that the client has sent; empty when it has everything."""
    told = run_record(file)
    files = runs_below(_run_folder(file), told.run_id)
    rows = len(set().union(*(epochs(f) for f in files[: files.index(file) + 1])))
    has = taken(told.entity, told.project, told.run_id)
    if has is None:
        return "W&B did not say whether it has every row; send it once more"
    if has.rows < rows:
        return f"W&B took {has.rows} of {rows} rows"
    return not_arrived(told.entity, told.project, told.run_id, file)


def _send_folder(file: Path) -> str:
    """Send what W&B lacks of a run from its folder; returns what it lacks then."""
    run = read_run(_run_folder(file))
    sweep = run.folder.parent.name if is_sweep(run.folder.parent) else None
    try:
        info = saved_info(run, sweep)
        recorder = WandbRecorder(saved_settings(run), "train", info, again=file)
        recorder.finish(run.summary)
    except Exception as error:  # whatever the client says
        return str(error).splitlines()[0]
    if not recorder.lacks:
        for one in runs_below(run.folder, run_record(file).run_id):
            _mark_sent(one)
    return recorder.lacks


def _mark_sent(file: Path) -> None:
    mark_synced(file)
    uploading(file).unlink(missing_ok=True)


def _client(uploads: list[Upload], base: Path, advance: Callable[[int], None]) -> str:
    """Run `wandb sync` for files of one working directory; returns its last words."""
    files = [upload.file for upload in uploads]
    # -P: nothing is imported from its working directory
    command = [sys.executable, "-P", "-m", "wandb", "sync", "--include-online", *map(str, files)]
    with tempfile.TemporaryFile("w+") as output, neutral_folder(files, base) as (here, environment):
        client = subprocess.Popen(
            command,
            cwd=here,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        done, changed = 0, time.monotonic()
        try:
            while client.poll() is None and time.monotonic() - changed < QUIET_S:
                time.sleep(0.1)
                now = sum(synced(file).exists() for file in files)
                if now != done:
                    advance(now - done)
                    done, changed = now, time.monotonic()
        finally:
            client.terminate()
            client.wait(30)
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    return lines[-1].removeprefix("wandb: ") if lines else "the client did not say why"
