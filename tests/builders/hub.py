"""A model hub on this machine: it writes down what it is asked and takes what it is sent."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0a" * 20
"""Of every model."""


@dataclass
class Hub:
    """What there is, and what was asked."""

    address: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)
    """By OWNER/NAME, whether it is private."""
    requests: list[str] = field(default_factory=list)
    created: list[dict] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    refuses: bool = False
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By OWNER/NAME, the files to be fetched."""

    def fetched(self, path: str) -> tuple[int, bytes, dict[str, str]] | None:
        """Return status, content and headers of a model's file or of what is said of it; None: no such model."""
        parts = path.strip("/").removeprefix("api/models/").split("/")
        files = self.models.get("/".join(parts[:2]))
        if files is None:
            return None
        if parts[2] == "resolve":
            content = files["/".join(parts[4:])]
            return 200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in files.items()
        ]
        content_of = entries if parts[2] == "tree" else {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": []}
        return 200, json.dumps(content_of).encode(), {"Content-Type": "application/json"}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict, dict[str, str]]:
        """Return status, content and headers, as the hub's API does."""
        self.requests.append(f"{method} {path}")
        if self.refuses:
            return 401, {"error": "Invalid username or password."}, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.created.append(asked)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.repositories[name] = asked.get("private") or asked.get("visibility") == "private"
            return 200, {"url": f"{self.address}/{name}", "id": name}, {}
        name = "/".join(path.split("/")[3:5])
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if "/preupload/" in path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return 200, {"files": files}, {}
        if "/commit/" in path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"commitUrl": f"{self.address}/{name}/commit/abc", "commitOid": "abc", "success": True}, {}
        return 200, {"id": name, "private": self.repositories[name], "sha": "abc", "siblings": [], "tags": []}, {}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve a hub on 127.0.0.1 for the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if (found := hub.fetched(self.path.partition("?")[0])) is not None:
                hub.requests.append(f"{self.command} {self.path.partition('?')[0]}")
                self.send_response(found[0])
                for key, value in ({"Content-Length": str(len(found[1]))} | found[2]).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(found[1])
                return
            status, content, headers = hub.answer(self.command, self.path.partition("?")[0], body)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        do_GET = do_POST = do_HEAD = _answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
