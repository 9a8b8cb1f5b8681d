"""A program that runs command lines of lrexp and tells what each did beside its answer.

`python audited.py REQUEST`: a JSON file with `lines` (lists of arguments) and `warm` (modules to
import first). Prints a JSON list of {code, said, did}; `did` names every file opened for writing,
folder made or removed, program started, connection tried, and every import of `hostile_package`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
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
        if not self.on:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING and path != os.devnull:
                self.did.append(f"open {path}")
        elif event in PROGRAMS | NETWORK | FILES:
            self.did.append(f"{event} {arguments[0]!s:.200}")
        elif event == "import" and str(arguments[0]).startswith("hostile_package"):
            self.did.append(f"import {arguments[0]}")


def main(request: dict[str, Any]) -> list[dict[str, Any]]:
    sys.dont_write_bytecode = True
    from lrexp.__main__ import main as lrexp

    for module in request["warm"]:
        importlib.import_module(module)
    answers, watch = [], Watch()
    for line in request["lines"]:
        out, err = io.StringIO(), io.StringIO()
        watch.did, watch.on = [], True
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = lrexp(line)
            except BaseException as error:  # a crash is an answer, too
                code = f"{type(error).__name__}: {error}"
        watch.on = False
        answers.append({"code": code, "said": err.getvalue(), "did": watch.did})
    return answers


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        found = main(json.load(file))
    print(json.dumps(found))
