"""A Hub on loopback that holds what is uploaded to it, as far as uploading and loading need one."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "a-token-of-the-tests"
COMMIT = "c0ffee" + "0" * 34


class FakeHub(ThreadingHTTPServer):
    """`repos` are {"private": …, "files": {name: bytes}} by id."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub():
    """Serve a hub until the block is left."""
    hub = FakeHub()
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_POST(self) -> None:
        body, path = self.body(), urlparse(self.path).path
        if not self.knows_me():
            self.answer(401, {"error": "who are you?"})
        elif path == "/api/repos/create":
            name = f"{json.loads(body).get('organization')}/{json.loads(body)['name']}"
            exists = name in self.server.repos
            wish = json.loads(body)  # older clients say "private", newer ones "visibility"
            private = wish.get("visibility") == "private" or wish.get("private", False)
            repo = {"private": private, "files": {}}
            self.server.repos.setdefault(name, repo)
            self.answer(409 if exists else 200, {"url": f"{self.server.endpoint}/{name}"})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [self.mode(file["path"]) for file in json.loads(body)["files"]]
            self.answer(200, {"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            href = f"{self.server.endpoint}/objects/"
            objects = [
                {**entry, "actions": {"upload": {"href": href + entry["oid"]}}}
                for entry in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self.commit("/".join(path.split("/")[3:5]), body)
        else:
            self.answer(404, {"error": path})

    def do_PUT(self) -> None:
        body = self.body()
        assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
        self.server.objects[self.path.rpartition("/")[2]] = body
        self.answer(200, {})

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        api = path.startswith("/api/models/")
        repo = "/".join(path.split("/")[3:5] if api else path.split("/")[1:3])
        known = self.server.repos.get(repo)
        if known is None or (known["private"] and not self.knows_me()):
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in path:
            tree = [{"type": "file", "path": name, "size": len(content), "oid": "0"}
                    for name, content in known["files"].items()]  # fmt: skip
            self.answer(200, tree)
        elif api:
            files = [{"rfilename": name} for name in known["files"]]
            self.answer(200, {"id": repo, "sha": COMMIT, "private": known["private"],
                              "siblings": files, "tags": []})  # fmt: skip
        else:
            self.give(known["files"].get("/".join(path.split("/")[5:])))

    do_HEAD = do_GET

    def give(self, content: bytes | None) -> None:
        if content is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            return self.answer(404, {"error": "Entry not found"}, headers)
        digest = hashlib.sha256(content).hexdigest()
        self.send_response(200)
        for name, value in {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT,
                            "Content-Length": str(len(content))}.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
        return None

    def commit(self, repo: str, body: bytes) -> None:
        files = self.server.repos[repo]["files"]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        url = f"{self.server.endpoint}/{repo}/commit/{COMMIT}"
        self.answer(200, {"success": True, "commitUrl": url, "commitOid": COMMIT})

    def mode(self, path: str) -> dict[str, Any]:
        kind = "lfs" if path.endswith((".safetensors", ".png")) else "regular"
        return {"path": path, "uploadMode": kind, "shouldIgnore": False, "oid": None}

    def knows_me(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        told = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (told | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""
