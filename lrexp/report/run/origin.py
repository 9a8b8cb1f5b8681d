"""How a run was made: the command, its settings, code and machine; and the end of its log."""

from __future__ import annotations

import shlex
from typing import Any

from markupsafe import Markup

from lrexp.config.names import shown_path
from lrexp.folder.layout import CONFIG, HYDRA, LOG, METRICS, OVERRIDES, PLAN, SUMMARY
from lrexp.report.html.page import (
    duration,
    element,
    join,
    link,
    number,
    table,
    tags,
    without_home,
)
from lrexp.report.run.defaults import changes
from lrexp.report.run.words import images_of, settings_of
from lrexp.runs.reading import end_of
from lrexp.runs.run import Run, flat, read_choices, was_rerun

LOG_LINES = 60


def configuration(run: Run) -> Markup:
    """The command, what it changed, and every setting."""
    if not run.config:
        return Markup()
    choices, folders, _ = read_choices(run.folder)
    rows = [
        [change.key, _plain(change.default), _plain(change.value)]
        for part in changes(run.config, choices, folders)
        for change in part
    ]
    if rows:
        differs = table(["setting", "default", "this run"], rows, sortable=False, tall=True)
    else:
        default, lost = "Nothing: this is the default run.", "Not known: .hydra/ is missing."
        differs = element("p", default if choices else lost, "quiet")
    settings = flat(run.config).items()
    text = "\n".join(f"{key}: {'null' if v is None else _plain(v)}" for key, v in settings)
    return join(
        element("h3", "Run it again"),
        _command(run),
        element("h3", "What differs from the defaults"),
        differs,
        tags.details("Every setting, as it ran", tags.code_block(without_home(text))),
    )


def _command(run: Run) -> Markup:
    """The exact command, and the code it ran."""
    _, folders, cwd = read_choices(run.folder)
    settings, made_by = flat(run.config), run.environment
    words = ["python", "-m", "lrexp"]
    if rerun := was_rerun(run.folder):  # its own config is all of it
        words += ["rerun", shown_path(run.folder)]
    else:
        words += [word for folder in folders for word in ("--config-dir", str(folder))]
    for override in () if rerun else run.overrides:
        key, _, value = override.partition("=")
        if value == "latest" and isinstance(settings.get(key), str):  # another run by now
            override = f"{key}={settings[key]}"
        words.append(override)
    line = shlex.join(words)
    target = settings_of(run, "model").get("target")
    if isinstance(target, str):
        line = f"LREXP_ALLOW_TARGETS={shlex.quote(target.partition('.')[0])} {line}"
    code = [f"lrexp {made_by['lrexp']}"] if made_by.get("lrexp") else []
    code += [f"commit {made_by['commit']}"] if made_by.get("commit") else []
    if made_by.get("diff_hash"):
        code.append(f"with uncommitted changes (hash {made_by['diff_hash']})")
    under = "On CPU the same code, machine type and thread count give the same bits."
    if not run.overrides and not (run.folder / HYDRA / OVERRIDES).exists():
        under = (
            "What was typed is not known (.hydra/overrides.yaml is missing); this is the default."
        )
    ran = f" It ran {', '.join(code)}." if code else ""
    lines = [f"cd {shlex.quote(cwd)}", line] if cwd and not rerun else [line]
    block = tags.code_block(without_home("\n".join(lines)))
    return join(block, element("p", under + ran, "under"))


def environment(run: Run) -> Markup:
    """Code, packages, machine, fingerprints, times and files."""
    found, summary = run.environment, run.summary
    if not found:
        return Markup()
    threads = f"{found.get('cpu_count')} cores, threads: {found.get('threads')}"
    packages = (f"{name} {v}" for name, v in (found.get("packages") or {}).items() if v)
    ids = {key.replace("_", " "): summary.get(key) for key in ("config_id", "plan_hash", "run_id")}
    prints = {f"{name} fingerprint": v for name, v in (found.get("fingerprints") or {}).items()}
    timings = (f"{k.removesuffix('_s')} {duration(v)}" for k, v in summary["timings"].items())
    files = [name for name in (CONFIG, PLAN, METRICS, SUMMARY, LOG) if (run.folder / name).exists()]
    pairs = {
        "device": found.get("gpu") or found.get("device"),
        "CPU": f"{found.get('cpu')}, {threads}",
        "system": found.get("os"),
        "Python": found.get("python"),
        "code": " ".join(str(found[k]) for k in ("lrexp", "commit", "diff_hash") if found.get(k)),
        "packages": ", ".join(packages),
        **{name: element("code", value) for name, value in (prints | ids).items() if value},
        "time": ", ".join(timings),
        "images": ", ".join(f"{number(n)} {name}" for name, n in images_of(run).items()),
        "files": Markup(", ").join(link(name, name) for name in files),
    }
    return tags.definitions([(name, value) for name, value in pairs.items() if value])


def log_end(run: Run) -> Markup:
    """The end of lrexp.log, of a run that did not simply finish."""
    try:
        lines = end_of(run.folder / LOG).splitlines()
    except (OSError, ValueError):
        return Markup()
    text = "\n".join(line[:500] for line in lines[-LOG_LINES:])
    return tags.code_block(without_home(text)) if text and run.status != "finished" else Markup()


def _plain(value: Any) -> str:
    if value is None or value == "???":  # what Hydra calls a setting without a default
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
