"""A Hugging Face Hub on this machine: those calls of its HTTP API by which its client uploads and downloads a model."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.http_server import LocalHandler, LocalServer

COMMIT = "c" * 40


class HubHandler(LocalHandler):
    """One call."""

    server: FakeHub

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, content: Any) -> None:
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        api = f"/api/models/{self.server.repository}"
        resolved = f"/{self.server.repository}/resolve/{COMMIT}/"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.answer_json({"id": self.server.repository, "sha": COMMIT, "siblings": siblings})
        elif path == f"{api}/tree/{COMMIT}":
            self.answer_json([self._entry(name) for name in self.server.files])
        elif path.startswith(resolved) and path.removeprefix(resolved) in self.server.files:
            data = self.server.files[path.removeprefix(resolved)]
            self.answer(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=COMMIT)
        else:
            self.answer(404, b"", X_Error_Code="RepoNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _entry(self, name: str) -> dict[str, Any]:
        data = self.server.files[name]
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        api = f"/api/models/{self.server.repository}"
        if self.path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif self.path == f"{api}/preupload/main":
            asked = json.loads(body)["files"]
            self.answer_json(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}
            )
        elif self.path == f"{api}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/{self.server.repository}/commit/{COMMIT}"
            self.answer_json({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        else:
            self.answer(404, b"")


class FakeHub(LocalServer):
    """One repository, of one commit."""

    def __init__(self, repository: str) -> None:
        super().__init__(HubHandler)
        self.repository = repository
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
