"""A server that speaks the few endpoints of the Hugging Face Hub that models need, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
LFS = (".safetensors", ".png")
Snapshot = dict[str, bytes]


@dataclass
class Repository:
    """Branches and commits of a model."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Snapshot] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Snapshot, branch: str = "main", message: str = "initial commit") -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = dict(files), oid
        self.messages.append(message)
        return oid

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def head(self, branch: str = "main") -> Snapshot:
        return self.commits[self.branches[branch]]


class Hub(ThreadingHTTPServer):
    """The server: repositories by id, uploaded large files by SHA-256, and the requests so far."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: Snapshot, **options: Any) -> Repository:
        self.repositories[name] = Repository(**options)
        self.repositories[name].commit(files)
        return self.repositories[name]


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a server in a thread."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def handle_any(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                getattr(self, method)(*[unquote(part) for part in match.groups()])
                return
        self.answer(200 if path == "/" else 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def answer(self, code: int, value: Any = None, error: str = "", **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps({} if value is None else value).encode()
        self.send_response(code)
        if error:
            self.send_header("X-Error-Code", error)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def writer(self) -> bool:
        if not self.known:
            self.answer(401, {"error": "Invalid username or password."})
        return self.known

    def found(self, name: str, revision: str = "main") -> tuple[Repository, str] | None:
        """The repository and the commit, or None after an error."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.known):
            self.answer(404, error="RepoNotFound")
            return None
        commit = repository.at(revision)
        if commit is None:
            self.answer(404, error="RevisionNotFound")
            return None
        return repository, commit

    def info(self, name: str, revision: str | None = None) -> None:
        if found := self.found(name, revision or "main"):
            repository, commit = found
            files = [{"rfilename": n, "size": len(d)} for n, d in repository.commits[commit].items()]
            self.answer(
                200,
                {
                    "id": name,
                    "modelId": name,
                    "sha": commit,
                    "private": repository.private,
                    "siblings": files,
                },
            )

    def tree(self, name: str, revision: str) -> None:
        if found := self.found(name, revision):
            files = found[0].commits[found[1]]
            self.answer(
                200, [{"type": "file", "path": n, "size": len(d), "oid": etag(d)} for n, d in files.items()]
            )

    def file(self, name: str, revision: str, path: str) -> None:
        if found := self.found(name, revision):
            if found[0].gated and not self.known:
                self.answer(403, error="GatedRepo")
                return
            data = found[0].commits[found[1]].get(path)
            if data is None:
                self.answer(404, error="EntryNotFound")
            else:
                self.answer(200, data, ETag=f'"{etag(data)}"', X_Repo_Commit=found[1])

    def create(self) -> None:
        if self.writer():
            given = json.loads(self.body)
            name = f"{given['organization']}/{given['name']}"
            url = {"url": f"{self.server.url}/{name}"}
            if name in self.server.repositories:
                self.answer(409, url)
            else:
                private = given.get("visibility") == "private" or bool(given.get("private"))
                self.server.add(name, {".gitattributes": b""}, private=private)
                self.answer(200, url)

    def branch(self, name: str, branch: str) -> None:
        if self.writer():
            repository = self.server.repositories[name]
            new = branch not in repository.branches
            repository.branches.setdefault(branch, repository.branches["main"])
            self.answer(200 if new else 409)

    def validate(self) -> None:
        wrong = "license: wrong" in json.loads(self.body)["content"]
        errors = [{"message": '"license" must be one of [apache-2.0, ...]'}] if wrong else []
        self.answer(400 if wrong else 200, {"errors": errors, "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(LFS) else "regular",
                "shouldIgnore": False,
            }
            for f in json.loads(self.body)["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, name: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}}
            for one in json.loads(self.body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        data = self.body or self.chunks()
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.objects[oid] = data
        self.answer(200)

    def chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def commit(self, name: str, branch: str) -> None:
        if not self.writer():
            return
        repository = self.server.repositories[name]
        files, message = dict(repository.head(branch)), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(files, branch, message)
        self.answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


_NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    (rf"GET /api/models/{_NAME}", "info"),
    (rf"GET /api/models/{_NAME}/revision/(\S+)", "info"),
    (rf"GET /api/models/{_NAME}/tree/(\S+)", "tree"),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(\S+)", "file"),
    (r"POST /api/repos/create", "create"),
    (rf"POST /api/models/{_NAME}/branch/(\S+)", "branch"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/models/{_NAME}/preupload/(\S+)", "preupload"),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /lfs/(\w+)", "put"),
    (rf"POST /api/models/{_NAME}/commit/(\S+)", "commit"),
)
