"""A small Hugging Face Hub on this machine: what its client asks of it, answered over HTTP from memory."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

API = re.compile(
    r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<verb>revision|preupload|commit|branch|tree)/(?P<rev>[^/?]+))?"
)
FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)")


class Hub:
    """Repositories, each a list of branches with their files, and what was asked for.

    Attributes:
        repos: Files by branch by repository.
        private: Repositories that only `token` may see.
        token: The one that may read private repositories and write.
        requests: Method and path of each request so far.
        bodies: What was sent to make repositories and commits.
        broken: Whether every answer is an error of the server.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.token = "hf_right"
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[dict[str, object]] = []
        self.broken = False
        self.address = ""

    def files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        """Of a branch, or of the commit that `commit` names."""
        branches = self.repos[repo]
        return next((files for name, files in branches.items() if revision in (name, self.commit(files))), None)

    def commit(self, files: dict[str, bytes]) -> str:
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()

    def asked_for(self, file: str) -> int:
        return sum(file in path for _, path in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, content: object, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(content).encode(), Content_Type="application/json", **headers)

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path))
        writer = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if self.hub.broken:
            return self.answer_json({"error": "out of order"}, 503)
        if self.command == "POST" and not writer:
            return self.answer_json({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        match = API.fullmatch(path) or FILE.fullmatch(path)
        if match is None:
            return self.answer_json({"error": "no such address"}, 404)
        repo, revision = match["repo"], match["rev"] or "main"
        if repo not in self.hub.repos or (repo in self.hub.private and not writer):
            return self.answer_json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        if match.re is API and match["verb"] == "branch":
            self.hub.repos[repo].setdefault(revision, dict(self.hub.repos[repo]["main"]))
            return self.answer_json({})
        files = self.hub.files(repo, revision)
        if files is None:
            return self.answer_json({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        if match.re is FILE:
            return self.file(files, match["file"])
        return getattr(self, match["verb"] or "revision")(repo, files, body)

    do_GET = do_HEAD = do_POST = handle_any

    def create(self, body: dict[str, str]) -> None:
        self.hub.bodies.append(body)
        repo = f"{body.get('organization') or 'me'}/{body['name']}"
        known = repo in self.hub.repos
        self.hub.repos.setdefault(repo, {"main": {}})
        self.answer_json({"url": f"{self.hub.address}/{repo}", "name": repo}, 409 if known else 200)

    def revision(self, repo: str, files: dict[str, bytes], _: bytes) -> None:
        siblings = [{"rfilename": name} for name in files]
        self.answer_json({"id": repo, "modelId": repo, "sha": self.hub.commit(files), "siblings": siblings})

    def tree(self, repo: str, files: dict[str, bytes], _: bytes) -> None:
        self.answer_json(
            [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()]
        )

    def file(self, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            return self.answer_json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        tag = hashlib.sha1(files[name]).hexdigest()
        return self.answer(200, files[name], ETag=f'"{tag}"', X_Repo_Commit=self.hub.commit(files))

    def preupload(self, repo: str, files: dict[str, bytes], body: bytes) -> None:
        asked = json.loads(body)["files"]
        self.answer_json(
            {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}
        )

    def commit(self, repo: str, files: dict[str, bytes], body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            else:
                self.hub.bodies.append(line["value"])
        address = f"{self.hub.address}/{repo}"
        self.answer_json(
            {"commitUrl": f"{address}/commit/{self.hub.commit(files)}", "commitOid": self.hub.commit(files)}
            | {"pullRequestUrl": f"{address}/discussions/1"}
        )


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and within the block the client of this process knows no other."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    # Old clients read the second.
    for module in (constants, huggingface_hub.file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
