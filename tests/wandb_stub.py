"""A loopback stand-in for a W&B server: enough for the real online client to send one run."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class WandbStub:
    """Receives runs: rows, summary, exit code. With `down` set, every request gets a 503.

    with WandbStub() as server:
        os.environ.update(server.environment)
    """

    def __init__(self) -> None:
        self.down = False
        self.down_after_init = False  # the outage begins as soon as a run has been created
        self.exit_codes: dict[str, int] = {}
        self._files: dict[str, defaultdict[str, list[str]]] = {}  # run -> file -> lines
        self._lock = threading.Lock()
        stub = self

        class Server(ThreadingHTTPServer):
            daemon_threads, block_on_close = True, False

            def handle_error(self, *_: Any) -> None:
                """A client that hangs up is no news."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with stub._lock:
                    answer = {} if stub.down else stub._answer(self.path, body)
                    self.send_response(503 if stub.down else 200)
                    stub.down = stub.down or (stub.down_after_init and bool(stub._files))
                data = json.dumps(answer).encode()
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = handle_any  # noqa: N815

        self._server = Server(("127.0.0.1", 0), Handler)
        self._url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.environment = {
            "WANDB_BASE_URL": self._url,
            "WANDB_API_KEY": "local-" + "a" * 40,
            "WANDB_ENTITY": "team",
        }

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def history(self, run: str) -> list[dict[str, Any]]:
        """Rows as they arrived, without W&B's own keys."""
        rows = map(json.loads, self._files[run]["wandb-history.jsonl"])
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]

    def summary(self, run: str) -> dict[str, Any]:
        """The latest summary."""
        return json.loads(self._files[run]["wandb-summary.json"][-1])

    def _answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/graphql":
            request = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            assert operation
            variables = request.get("variables") or {}
            return {"data": self._graphql(operation[1], variables)}
        if stream := re.fullmatch(r"/files/(?:[^/]+/)*([^/]+)/file_stream", path):
            self._receive(stream[1], json.loads(body))
        return {}

    def _receive(self, run: str, sent: dict[str, Any]) -> None:
        for name, chunk in (sent.get("files") or {}).items():
            lines, start = self._files[run][name], chunk["offset"]
            lines[start : start + len(chunk["content"])] = chunk["content"]
        if sent.get("complete"):
            self.exit_codes[run] = sent["exitcode"]

    def _graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        if operation == "Viewer":
            teams = {"edges": [{"node": {"name": "team"}}]}
            viewer = {"id": "u", "entity": "team", "username": "stub", "flags": "{}"}
            return {"viewer": viewer | {"teams": teams}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation == "ServerInfo":
            return {"serverInfo": {"cliVersionInfo": "{}", "latestLocalVersionInfo": None}}
        if operation == "UpsertBucket":
            run = variables["name"]
            self._files.setdefault(run, defaultdict(list))
            project = {"id": "p", "name": "lrexp", "entity": {"id": "e", "name": "team"}}
            bucket = {"id": run, "name": run, "displayName": run, "project": project}
            return {"upsertBucket": {"inserted": True, "bucket": bucket}}
        if operation == "CreateRunFiles":
            files = [
                {"name": n, "uploadUrl": f"{self._url}/storage/{n}"} for n in variables["files"]
            ]
            run = variables["run"]
            return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}
        if operation == "RunStoppedStatus":
            return {"project": {"run": {"stopped": False}}}
        return {}
