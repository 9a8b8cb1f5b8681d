"""How a run was made: the command, its settings, code and machine; and the end of its log."""

from __future__ import annotations

import shlex
from typing import Any

from lrexp.folder.layout import CONFIG, HYDRA, LOG, METRICS, OVERRIDES, PLAN, SUMMARY
from lrexp.report.html.page import (
    Html,
    code_block,
    definitions,
    details,
    duration,
    element,
    join,
    link,
    number,
    table,
    without_home,
)
from lrexp.report.run.defaults import changes
from lrexp.report.run.words import settings_of
from lrexp.runs.run import Run, flat, read_choices

LOG_LINES = 60


def configuration(run: Run) -> Html:
    """The command, what it changed, and every setting."""
    if not run.config:
        return Html("")
    choices, folders, _ = read_choices(run.folder)
    made = changes(run.config, choices, folders)
    parts = [element("h3", "Run it again"), _command(run)]
    parts.append(element("h3", "What differs from the defaults"))
    rows = [
        [change.key, _plain(change.default), _plain(change.value)]
        for change in (*made.choices, *made.settings)
    ]
    if rows:
        parts.append(table(["setting", "default", "this run"], rows, sortable=False, tall=True))
    elif choices:
        parts.append(element("p", "Nothing: this is the default run.", class_="quiet"))
    else:
        parts.append(element("p", "Not known: .hydra/ is missing.", class_="quiet"))
    text = "\n".join(
        f"{key}: {'null' if value is None else _plain(value)}"
        for key, value in flat(run.config).items()
    )
    parts.append(details("Every setting, as it ran", code_block(without_home(text))))
    return join(*parts)


def _command(run: Run) -> Html:
    """The exact command, and the code it ran."""
    _, folders, cwd = read_choices(run.folder)
    settings = flat(run.config)
    words = ["python", "-m", "lrexp"]
    words += [word for folder in folders for word in ("--config-dir", str(folder))]
    for override in run.overrides:
        key, _, value = override.partition("=")
        if value == "latest" and isinstance(settings.get(key), str):  # another run by now
            override = f"{key}={settings[key]}"
        words.append(override)
    line = " ".join(shlex.quote(word) for word in words)
    target = settings_of(run, "model").get("target")
    if isinstance(target, str):
        line = f"LREXP_ALLOW_TARGETS={shlex.quote(target.partition('.')[0])} {line}"
    commit, changed = run.environment.get("commit"), run.environment.get("diff_hash")
    code = f"lrexp {run.environment.get('lrexp')}" if run.environment.get("lrexp") else ""
    if commit:
        code += f", commit {commit}"
    if changed:
        code += f", with uncommitted changes (hash {changed})"
    lines = [f"cd {shlex.quote(cwd)}", line] if cwd else [line]
    under = "On CPU the same code, machine type and thread count give the same bits."
    ran = f" It ran {code}." if code else ""
    if not run.overrides and not (run.folder / HYDRA / OVERRIDES).exists():
        under = (
            "What was typed is not known (.hydra/overrides.yaml is missing); this is the default."
        )
    return join(
        code_block(without_home("\n".join(lines))), element("p", under, ran, class_="under")
    )


def environment(run: Run) -> Html:
    """Code, packages, machine, fingerprints, times and files."""
    found = run.environment
    if not found:
        return Html("")
    packages = found.get("packages")
    prints = found.get("fingerprints")
    pairs: list[tuple[Any, Any]] = [
        ("device", found.get("gpu") or found.get("device")),
        (
            "CPU",
            f"{found.get('cpu')}, {found.get('cpu_count')} cores, threads: {found.get('threads')}",
        ),
        ("system", found.get("os")),
        ("Python", found.get("python")),
        ("code", " ".join(str(found[k]) for k in ("lrexp", "commit", "diff_hash") if found.get(k))),
    ]
    if isinstance(packages, dict):
        said = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        pairs.append(("packages", said))
    if isinstance(prints, dict):
        pairs += [(f"{name} fingerprint", element("code", p)) for name, p in prints.items()]
    for key in ("config_id", "plan_hash", "run_id"):
        if run.summary.get(key):
            pairs.append((key.replace("_", " "), element("code", run.summary[key])))
    timings = run.summary["timings"]
    if timings:
        pairs.append(
            (
                "time",
                ", ".join(f"{k.removesuffix('_s')} {duration(v)}" for k, v in timings.items()),
            )
        )
    sizes = run.summary["data"].get("images")
    if isinstance(sizes, dict):
        pairs.append(("images", ", ".join(f"{number(n)} {name}" for name, n in sizes.items())))
    links = [name for name in (CONFIG, PLAN, METRICS, SUMMARY, LOG) if (run.folder / name).exists()]
    if links:
        parts = [join(", " if i else "", link(name, name)) for i, name in enumerate(links)]
        pairs.append(("files", join(*parts)))
    return definitions([(name, value) for name, value in pairs if value])


def log_end(run: Run) -> Html:
    """The end of lrexp.log, of a run that did not simply finish."""
    if run.status == "finished":
        return Html("")
    try:
        lines = (run.folder / LOG).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return Html("")
    text = "\n".join(line[:500] for line in lines[-LOG_LINES:])
    return code_block(without_home(text)) if text else Html("")


def _plain(value: Any) -> str:
    if value is None or value == "???":  # what Hydra calls a setting without a default
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
