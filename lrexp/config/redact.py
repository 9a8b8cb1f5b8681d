"""Secrets of the environment, which nothing that is written or shown may hold."""

from __future__ import annotations

import json
import logging
import os
import re
from html import escape
from urllib.parse import quote

MIN_LENGTH = 8  # shorter values are words like `false` that stand everywhere
_SECRET = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|KEY|TOKEN|SECRET|CREDENTIALS?|JWT|PASS)(_|$)"
    r"|PASSWORD|PASSWD|PASSPHRASE|_(PWD|AUTH|PAT|DSN)$",
    re.IGNORECASE,
)
# user:password, the password of any characters, but `host:80/` has none; and a token as user
_IN_URL = re.compile(
    r"""(?<=://)(?:[^\s/:"]*:(?!\d{1,5}(?:[/?#"'\s,;)\]}>]|$))(?:[^\s"]+|\S+)|[\w-]{20,})(?=@)"""
)


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of that name holds a key, a token or a password."""
    return _SECRET.search(name) is not None


def secret_in(text: str) -> str:
    """What secret a text holds: a variable's name, `a password in a URL`, or the empty string."""
    for name, value in _secrets().items():
        if any(form in text for form in _forms(value)):
            return name
    return "a password in a URL" if _IN_URL.search(text) else ""


def redacted(text: str) -> str:
    """The text with `***` for every secret of the environment and every password in a URL."""
    forms = {form for value in _secrets().values() for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return _IN_URL.sub("***", text) if "://" in text else text


class RedactingFormatter(logging.Formatter):
    """The standard formatter; messages and tracebacks without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def _secrets() -> dict[str, str]:
    """Secret values by the names of their variables; the path of a file that is there is none."""
    return {
        name: value
        for name, value in os.environ.items()
        if len(value) >= MIN_LENGTH and is_secret_name(name) and not _is_path(value)
    }


def _forms(value: str) -> set[str]:
    """How a secret may be written: plain, within JSON, an address, a page, or Python's quotes."""
    as_json = (json.dumps(value, ensure_ascii=ascii)[1:-1] for ascii in (False, True))
    return {value, *as_json, quote(value, safe=""), quote(value), escape(value), repr(value)[1:-1]}


def _is_path(value: str) -> bool:
    try:
        return value[0] in "/~." and os.path.exists(os.path.expanduser(value))
    except ValueError:
        return False
