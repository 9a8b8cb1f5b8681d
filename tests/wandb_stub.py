"""A loopback stand-in for a W&B server: enough for the real client to send runs, sync them, drive
sweeps with agents, and save views and reports. It cannot show that wandb.ai draws anything.

    with WandbStub() as server:
        os.environ.update(server.environment)
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote

import yaml

TEAM = {"id": "e", "name": "team"}


@dataclass
class Run:
    """What the server was told of one run."""

    facts: dict[str, Any] = field(default_factory=dict)  # project, tags, displayName, ...
    config: dict[str, Any] = field(default_factory=dict)
    files: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    exit_code: int | None = None


class WandbStub:
    """Receives what the client sends.

    Attributes:
        down: an outage: every request gets a 503.
        silent: requests are taken and never answered.
        down_after_init: the outage begins as soon as a run has been created.
        down_after_rows: likewise, once so many rows of a run have come.
        refuses_after_rows: from so many rows of a run on, whatever else comes of it gets a 403.
        slow_s: every answer waits so long.
    """

    def __init__(self) -> None:
        self.down = self.silent = self.down_after_init = False
        self.down_after_rows = 0
        self.refuses_after_rows: int | None = None
        self.slow_s = 0.0
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}  # path below /storage/ -> what was put there
        self.alerts: list[dict[str, Any]] = []
        self.refuses = ""  # which files of runs and artifacts, as a regular expression
        self.views: dict[str, dict[str, Any]] = {}  # id -> its latest version
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []  # operations and paths, in order
        self._lock = threading.RLock()
        self._over = threading.Event()
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
                body = self._body()
                if stub.silent:
                    stub._over.wait()
                    return
                stub._over.wait(stub.slow_s)
                with stub._lock:
                    if stub.down:
                        code, answer = 503, {}
                    else:
                        code, answer = stub._answer(self.command, self.path, body)
                        stub.down = stub._outage_begins()
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def _body(self) -> bytes:
                body = b""
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                return gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body

            do_GET = do_POST = do_PUT = do_HEAD = handle_any  # noqa: N815

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.environment = {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "local-" + "a" * 40,
            "WANDB_ENTITY": "team",
        }

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def exit_codes(self) -> dict[str, int]:
        """Of the runs that were closed."""
        return {n: run.exit_code for n, run in self.runs.items() if run.exit_code is not None}

    def history(self, run: str) -> list[dict[str, Any]]:
        """Rows as they arrived, without W&B's own keys."""
        rows = map(json.loads, self._run(run).files["wandb-history.jsonl"])
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]

    def summary(self, run: str) -> dict[str, Any]:
        """The latest summary."""
        return json.loads((self._run(run).files["wandb-summary.json"] or ["{}"])[-1])

    def config(self, run: str) -> dict[str, Any]:
        """Without W&B's own key."""
        return {k: v["value"] for k, v in self._run(run).config.items() if k != "_wandb"}

    def _run(self, name: str) -> Run:
        return self.runs.setdefault(name, Run())

    def _outage_begins(self) -> bool:
        rows = max((len(r.files["wandb-history.jsonl"]) for r in self.runs.values()), default=0)
        if (self.down_after_init and self.runs) or 0 < self.down_after_rows <= rows:
            self.down_after_init, self.down_after_rows = False, 0
            return True
        return self.down

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/graphql":
            request = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            operation = found[1] if found else "?"
            self.requests.append(operation)
            answer: Callable[..., Any] | None = getattr(self, f"_{operation}", None)
            if answer is None:
                return 200, {"data": {}, "errors": [{"message": f"no answer to {operation}"}]}
            return 200, {"data": answer(request.get("variables") or {})}
        self.requests.append(path)
        if stream := re.fullmatch(r"/files/(?:[^/]+/)*([^/]+)/file_stream", path):
            if not self._receive(stream[1], json.loads(body)):
                return 403, {"error": "permission denied"}
        elif path.startswith("/storage/"):
            name = unquote(path.removeprefix("/storage/"))
            if method == "PUT" and self.refuses and re.search(self.refuses, name):
                return 403, {"error": "permission denied"}
            if method == "PUT":
                self.uploads[name] = body
            else:
                return (200, self.uploads[name]) if name in self.uploads else (404, {})
        return 200, {}

    def _receive(self, name: str, sent: dict[str, Any]) -> bool:
        run = self._run(name)
        rows, most = len(run.files["wandb-history.jsonl"]), self.refuses_after_rows
        if most is not None and rows >= most:
            return False
        for file, chunk in (sent.get("files") or {}).items():
            lines, start, content = run.files[file], chunk["offset"], chunk["content"] or []
            if file == "wandb-summary.json":
                lines.clear()
                start = 0
            lines.extend([""] * (start - len(lines)))
            lines[start : start + len(content)] = content
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]
        return True

    # One method per operation of the client's, named like it.

    def _Viewer(self, _: Any) -> Any:  # noqa: N802
        teams = {"edges": [{"node": {"name": "team"}}]}
        user = {"id": "u", "entity": "team", "username": "stub", "email": "", "flags": "{}"}
        return {"viewer": user | {"teams": teams}}

    def _GetDefaultEntity(self, given: Any) -> Any:  # noqa: N802
        return self._Viewer(given)

    def _ServerFeaturesQuery(self, _: Any) -> Any:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _ServerInfo(self, _: Any) -> Any:  # noqa: N802
        return {"serverInfo": {"cliVersionInfo": "{}", "latestLocalVersionInfo": None}}

    def _OrganizationCoreWeaveOrganizationID(self, _: Any) -> Any:  # noqa: N802
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _UpsertBucket(self, given: dict[str, Any]) -> Any:  # noqa: N802
        new, run = given["name"] not in self.runs, self._run(given["name"])
        if given.get("config"):
            run.config = json.loads(given["config"])
        run.facts |= {k: v for k, v in given.items() if v is not None and k != "config"}
        return {"upsertBucket": {"inserted": new, "bucket": self._bucket(given["name"])}}

    def _bucket(self, name: str) -> dict[str, Any]:
        run = self._run(name)
        history, events = run.files["wandb-history.jsonl"], run.files["wandb-events.jsonl"]
        own = run.config.get("_wandb", {}).get("value", {})
        project = {"id": "p", "name": run.facts.get("project", "p"), "entity": TEAM}
        return {
            "id": f"id-{name}",
            "name": name,
            "project": project,
            "sweepName": None,
            "displayName": run.facts.get("displayName", name),
            "description": None,
            "notes": None,
            "tags": run.facts.get("tags", []),
            "config": json.dumps(run.config),
            "wandbConfig": json.dumps({"t": own.get("t")}),
            "summaryMetrics": json.dumps(self.summary(name)),
            "historyLineCount": len(history),
            "historyTail": json.dumps(history[-1:]),
            "eventsLineCount": len(events),
            "eventsTail": json.dumps(events[-1:]),
            "logLineCount": len(run.files["output.log"]),
        }

    def _RunResumeStatus(self, given: dict[str, Any]) -> Any:  # noqa: N802
        name = given["name"]
        bucket = self._bucket(name) if name in self.runs else None
        return {"model": {"id": "p", "name": given["project"], "entity": TEAM, "bucket": bucket}}

    def _Run(self, given: dict[str, Any]) -> Any:  # noqa: N802
        name = given["name"]
        nothing = dict.fromkeys(("state", "group", "jobType", "commit", "createdAt", "heartbeatAt"))
        nothing |= {
            "systemMetrics": "{}",
            "historyKeys": {"keys": {}},
            "readOnly": False,
            "user": {"name": "stub"},
        }
        run = nothing | self._bucket(name) if name in self.runs else None
        return {"project": {"internalId": "UHJvamVjdDox", "run": run}}

    def _RunStoppedStatus(self, _: Any) -> Any:  # noqa: N802
        return {"project": {"run": {"stopped": False}}}

    def _CreateRunFiles(self, given: dict[str, Any]) -> Any:  # noqa: N802
        run = given["run"]
        files = [{"name": f, "uploadUrl": f"{self.url}/storage/{run}/{f}"} for f in given["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _MarkRunFilesUploaded(self, _: Any) -> Any:  # noqa: N802
        return {"markRunFilesUploaded": {"success": True}}

    def _NotifyScriptableRunAlert(self, given: dict[str, Any]) -> Any:  # noqa: N802
        self.alerts.append(given)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _CreateArtifact(self, given: dict[str, Any]) -> Any:  # noqa: N802
        made = f"art{len(self.artifacts)}"
        self.artifacts[made] = {**given["input"], "state": "PENDING", "id": made}
        sequence = {"latestArtifact": None}
        artifact = {"id": made, "state": "PENDING", "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> Any:  # noqa: N802
        of = given["artifactID"]
        file: dict[str, Any] = {"id": "f"}
        if given.get("includeUpload"):
            file |= {"uploadUrl": f"{self.url}/storage/manifest/{of}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"m-{of}", "file": file}}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> Any:  # noqa: N802
        manifest = given["artifactManifestID"]
        url = f"{self.url}/storage/manifest/{manifest.removeprefix('m-')}"
        file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": manifest, "file": file}}}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> Any:  # noqa: N802
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": f"{self.url}/storage/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in given.get("input", given)["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _RunOutputArtifacts(self, given: dict[str, Any]) -> Any:  # noqa: N802
        nodes = []
        for artifact in self.artifacts.values():
            if artifact.get("runName") != given["run"] or artifact["state"] != "COMMITTED":
                continue  # the client cannot read one that is not committed
            project = {"id": "p", "internalId": "i", "name": given["project"], "entity": TEAM}
            kind, name = artifact["artifactTypeName"], artifact["artifactCollectionName"]
            collection = {"__typename": "ArtifactSequence", "id": "s", "name": name}
            nothing = dict.fromkeys(("description", "metadata", "updatedAt", "commitHash"))
            node = {
                "__typename": "Artifact",
                "id": artifact["id"],
                "state": artifact["state"],
                "digest": artifact["digest"],
                "artifactSequence": collection | {"project": project},
                "versionIndex": 0,
                "artifactType": {"id": "t", "name": kind},
                "ttlIsInherited": False,
                "ttlDurationSeconds": -1,
                "size": 1,
                "fileCount": 1,
                "createdAt": "2026-01-01T00:00:00",
                "historyStep": None,
                "aliases": [],
                "tags": [],
            }
            nodes.append({"node": nothing | node})
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        found = {"totalCount": len(nodes), "pageInfo": page, "edges": nodes}
        return {"project": {"run": {"artifacts": found}}}

    def _RunFiles(self, given: dict[str, Any]) -> Any:  # noqa: N802
        run = given["name"]
        nodes = [
            {
                "id": name,
                "name": name,
                "url": "",
                "sizeBytes": len(self.uploads[f"{run}/{name}"]),
                **dict.fromkeys(("mimetype", "updatedAt", "md5", "directUrl")),
            }
            for name in given["fileNames"]
            if f"{run}/{name}" in self.uploads
        ]
        edges = [{"node": node, "cursor": node["id"]} for node in nodes]
        files = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        listed = {"fileCount": len(nodes), "files": files}
        return {"project": {"internalId": "UHJvamVjdDox", "run": listed}}

    def _CommitArtifact(self, given: dict[str, Any]) -> Any:  # noqa: N802
        artifact = self.artifacts[given["artifactID"]]
        artifact["state"] = "COMMITTED"
        made = {"id": artifact["id"], "digest": artifact["digest"]}
        return {"commitArtifact": {"artifact": made}}

    def _UpsertSweep(self, given: dict[str, Any]) -> Any:  # noqa: N802
        config = yaml.safe_load(given["config"])
        name, parameters = f"sw{len(self.sweeps)}", config["parameters"]
        every = itertools.product(*[p.get("values", [p.get("value")]) for p in parameters.values()])
        queue = [dict(zip(parameters, values, strict=True)) for values in every]
        self.sweeps[name] = {"config": config, "queue": queue, "runs": []}
        project = {"id": "p", "name": given["projectName"], "entity": TEAM}
        made = {"name": name, "project": project}
        return {"upsertSweep": {"sweep": made, "configValidationWarnings": []}}

    def _SweepWithRuns(self, given: dict[str, Any]) -> Any:  # noqa: N802
        name = given["sweep"]
        config = yaml.safe_dump(self.sweeps[name]["config"])
        state = {"id": name, "name": name, "method": "grid", "state": "RUNNING", "config": config}
        nothing = {"controller": None, "scheduler": None, "runs": {"edges": []}}
        return {"project": {"sweep": state | nothing}}

    def _GetSweepState(self, _: Any) -> Any:  # noqa: N802
        return {"project": {"sweep": {"state": "RUNNING"}}}

    def _CreateAgent(self, given: dict[str, Any]) -> Any:  # noqa: N802
        return {"createAgent": {"agent": {"id": given["sweep"]}}}

    def _Heartbeat(self, given: dict[str, Any]) -> Any:  # noqa: N802
        name, commands = given["id"], []
        sweep = self.sweeps[name]
        if not json.loads(given["runState"]):
            if sweep["queue"]:
                run = f"{name}run{len(sweep['runs']):02d}"
                chosen = {k: {"value": v} for k, v in sweep["queue"].pop(0).items()}
                sweep["runs"].append(run)
                program = sweep["config"].get("program")
                commands = [{"type": "run", "run_id": run, "program": program, "args": chosen}]
            else:
                commands = [{"type": "exit"}]
        answer = {"agent": {"id": name}, "commands": json.dumps(commands)}
        return {"agentHeartbeat": answer}

    def _UpsertView2(self, given: dict[str, Any]) -> Any:  # noqa: N802
        return self._save_view(given)

    def _upsertView(self, given: dict[str, Any]) -> Any:  # noqa: N802
        return self._save_view(given)

    def _save_view(self, given: dict[str, Any]) -> Any:
        same = (i for i, v in self.views.items() if v["name"] == given["name"])
        made = given.get("id") or next(same, f"view{len(self.views)}")
        inserted = made not in self.views
        self.views[made] = given | {"id": made, "saved": time.time()}
        project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        user = {"id": "u", "name": "stub", "username": "stub", "userInfo": {}}
        view = {
            **{key: given.get(key) for key in ("type", "name", "displayName", "description")},
            "id": made,
            "project": project,
            "user": user,
            "spec": given["spec"],
            "specObject": json.loads(given["spec"]),
            **dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00"),
        }
        return {"upsertView": {"view": view, "inserted": inserted}}

    def _View(self, given: dict[str, Any]) -> Any:  # noqa: N802
        nodes = [
            {key: view.get(key) for key in ("id", "displayName", "name", "spec")}
            for view in self.views.values()
            if view["name"] == given["viewName"]
        ]
        return {"project": {"allViews": {"edges": [{"node": node} for node in nodes]}}}

    def _ProjectInternalId(self, _: Any) -> Any:  # noqa: N802
        return {"project": {"id": "p", "internalId": "UHJvamVjdDox"}}

    def _CreateProject(self, given: dict[str, Any]) -> Any:  # noqa: N802
        project = {"id": "p", "name": given.get("name", "p"), "entityName": "team"}
        project |= dict.fromkeys(("description", "access", "views"))
        return {"upsertModel": {"project": project, "model": project, "inserted": True}}

    def _GetProjects(self, _: Any) -> Any:  # noqa: N802
        page = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [], "pageInfo": page}}
