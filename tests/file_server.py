"""A server of files on this machine that may hang or lack them."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DEAD = "http://127.0.0.1:9/"  # nobody listens there


class Stub(http.server.BaseHTTPRequestHandler):
    """Answers with the file of `served` that a path ends with, or hangs, or is missing it."""

    served: dict[str, bytes] = {}  # noqa: RUF012
    hangs = False
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.hangs:
            time.sleep(1.2)
            return
        data = self.served.get(self.path.rsplit("/", 1)[-1])
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[tuple[type[Stub], str]]:
    """A server's behaviour, to be changed, and its address."""
    handler = type("Own", (Stub,), {"served": {}})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield handler, f"http://127.0.0.1:{running.server_port}/"
    running.shutdown()
    running.server_close()
    thread.join()
