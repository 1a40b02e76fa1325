"""A model hub on this machine: it writes down what it is asked and takes what it is sent."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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
            status, content, headers = hub.answer(self.command, self.path.partition("?")[0], body)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        do_GET = do_POST = _answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
