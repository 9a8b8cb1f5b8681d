"""Runs command lines of lrexp in this process and tells what each did beside its answer."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from functools import cache
from typing import Any

PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"}
NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"}
FILES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """What the interpreter reports while `on`; an audit hook cannot be removed."""

    def __init__(self) -> None:
        self.on, self.did = False, list[str]()
        sys.addaudithook(self.heard)

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or threading.current_thread() is not threading.main_thread():
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING and path != os.devnull:
                self.did.append(f"open {path}")
        elif event in PROGRAMS | NETWORK | FILES:
            self.did.append(f"{event} {arguments[0]!s:.200}")
        elif event == "import" and str(arguments[0]).startswith("hostile_package"):
            self.did.append(f"import {arguments[0]}")


watch = cache(Watch)  # one for the program


def answers(lines: list[list[str]]) -> list[dict[str, Any]]:
    """{code, printed, said (on stderr), did} of every line.

    `did` names every file opened for writing, folder made or removed, program started, connection
    tried, and every import of `hostile_package`.
    """
    from lrexp.__main__ import main

    found, seen = [], watch()
    for line in lines:
        out, err = io.StringIO(), io.StringIO()
        seen.did, seen.on = [], True
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code: Any = main(line)
            except BaseException as error:  # a crash is an answer, too
                code = f"{type(error).__name__}: {error}"
            finally:
                seen.on = False
        said = {"code": code, "printed": out.getvalue(), "said": err.getvalue()}
        found.append(said | {"did": seen.did})
    return found
