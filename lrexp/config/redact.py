"""Secrets of the environment, which nothing that is written or shown may hold."""

from __future__ import annotations

import logging
import os
import re

MIN_LENGTH = 8  # shorter values are words like `false` that stand everywhere
_SECRET = re.compile(
    r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE
)
_IN_URL = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")  # user:password


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of that name holds a key, a token or a password."""
    return _SECRET.search(name) is not None


def secret_in(text: str) -> str:
    """What secret a text holds: a variable's name, `a password in a URL`, or the empty string."""
    for name, value in _secrets().items():
        if value in text:
            return name
    return "a password in a URL" if _IN_URL.search(text) else ""


def redacted(text: str) -> str:
    """The text with `***` for every secret of the environment and every password in a URL."""
    for value in sorted(_secrets().values(), key=len, reverse=True):
        text = text.replace(value, "***")
    return _IN_URL.sub("***", text) if "://" in text else text


class RedactingFormatter(logging.Formatter):
    """The standard formatter; messages and tracebacks without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def _secrets() -> dict[str, str]:
    """Secret values by the names of their variables; the path of a file is none."""
    return {
        name: value
        for name, value in os.environ.items()
        if len(value) >= MIN_LENGTH and is_secret_name(name) and value[0] not in "/~."
    }
