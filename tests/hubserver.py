"""A Hub on this machine: the endpoints that huggingface_hub's client uses, and a CDN behind them.

What is asked is noted, bytes are counted, and any request can be made to fail. Two servers with
two ports, for two origins: a token that is for the Hub must not reach the CDN.
"""

import base64
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_an_account"
LARGE = (".safetensors", ".bin")
Content = bytes | Path
_CHUNK = 1 << 16


def sha(*parts: object) -> str:
    return hashlib.sha1("\0".join(map(str, parts)).encode()).hexdigest()


@dataclass
class Repo:
    """Commits, each a whole tree, and the branches that name them."""

    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: Mapping[str, Content], branch: str = "main") -> str:
        name = sha(len(self.commits), branch, *(f"{n} {etag(n, c)}" for n, c in files.items()))
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """Requests whose line ("GET /path") matches fail, so many times; `how` says in which way.

    A number is an HTTP status; "cut" ends the body in its middle; "drop" closes the connection at
    once; "whole" ignores the range that was asked for.
    """

    pattern: str
    how: int | str
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)


class Hub:
    """The state of both servers, and what has been asked of them."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.leaked: list[str] = []
        self.sent = 0
        self.expiry = 0
        self.hook: Callable[[str], None] = lambda _: None
        self.lock = threading.Lock()
        self.url = self.cdn = ""

    def add(self, name: str, directory: Path, **access: bool) -> Repo:
        """A repository with the files of a directory."""
        repo = self.repos[name] = Repo(**access)
        repo.commit({path.name: path.read_bytes() for path in directory.iterdir()})
        return repo

    def asked(self, pattern: str) -> list[str]:
        """The requests so far whose line matches."""
        return [line for line in self.requests if re.search(pattern, line)]

    def forget(self) -> None:
        """Begin to count anew."""
        self.requests.clear()
        self.sent = 0

    def fault(self, line: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return None

    def environment(self, cache: Path) -> dict[str, str]:
        """What makes the client of another process talk to this server."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


class Handler(BaseHTTPRequestHandler):
    """What both servers have in common."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def respond(self) -> None:
        span = self.headers.get("Range", "")
        line = f"{self.command} {self.path} {span}".strip()
        self.body = self._body()
        self.hub.hook(line)
        with self.hub.lock:
            self.hub.requests.append(line)
        fault = self.hub.fault(line)
        self.how = fault.how if fault else None
        if self.how == "drop":
            self.close_connection = True
            self.connection.shutdown(2)
        elif isinstance(self.how, int):
            self.send(self.how, b"{}", dict(fault.headers if fault else {}))
        else:
            self.route(urlsplit(self.path).path)

    do_GET = do_HEAD = do_POST = do_PUT = respond  # noqa: N815 - the base class calls them so

    def route(self, path: str) -> None:
        raise NotImplementedError

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self.send_head(status, {"Content-Length": str(len(body)), **headers})
        if self.command != "HEAD":
            self.write(body)

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def json(self, content: Any, status: int = 200) -> None:
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def write(self, body: bytes) -> None:
        if self.how == "cut":
            body = body[: len(body) // 2]
            self.close_connection = True
        self.write_parts(body[start : start + _CHUNK] for start in range(0, len(body), _CHUNK))

    def write_parts(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            # Before it is sent: who has it all must find that it was all counted.
            with self.hub.lock:
                self.hub.sent += len(part)
            try:
                self.wfile.write(part)
            except OSError:  # nobody listens any more
                self.close_connection = True
                return

    def serve(self, content: Content, headers: Mapping[str, str]) -> None:
        """A file or the range of it that was asked for."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        begin, end, status, given = 0, size, 200, dict(headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.how != "whole":
            begin, end = int(asked[1]), min(size, int(asked[2] or size - 1) + 1)
            status = 206
            given["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        if isinstance(content, bytes):
            self.send(status, content[begin:end], given)
            return
        # Too large to be held: as it is sent.
        self.send_head(status, {"Content-Length": str(end - begin), **given})
        if self.command != "HEAD":
            with content.open("rb") as file:
                self.write_parts(
                    os.pread(file.fileno(), min(_CHUNK, end - start), start)
                    for start in range(begin, end, _CHUNK)
                )


class Server(ThreadingHTTPServer):
    """Does not report that somebody hung up."""

    def handle_error(self, *given: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*given)


class Cdn(Handler):
    """Where the large files are; addresses are signed, and can expire."""

    def route(self, path: str) -> None:
        if self.headers.get("Authorization"):
            self.hub.leaked.append(self.path)
        if self.command == "PUT":
            self.hub.objects[path.rpartition("/")[2]] = self.body
            self.send(200)
            return
        if f"expires={self.hub.expiry}" not in self.path:
            self.send(403, b"<Error>expired</Error>")
            return
        _, _, commit, name = path.split("/", 3)
        for repo in self.hub.repos.values():
            if commit in repo.commits:
                self.serve(repo.commits[commit][unquote(name)], {"ETag": '"of-the-cdn"'})
                return
        self.send(404)


class Api(Handler):
    """The Hub itself."""

    def route(self, path: str) -> None:
        if path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.create()
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/(.+))?", path):
            self.api(unquote(match[1]), match[2], unquote(match[3] or "main"))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/(batch|verify)", path):
            self.lfs(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(match[1], unquote(match[2]), unquote(match[3]))
        else:
            self.send(404)

    def error(self, status: int, code: str, text: str) -> None:
        self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": text})

    def open(self, name: str, revision: str) -> tuple[Repo, str] | None:
        """The repository and commit, or an answer as the Hub gives it where that must not be."""
        repo = self.hub.repos.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.headers.get("Authorization") and not known:
            self.send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None or (repo.private and not known):
            self.error(404 if known else 401, "RepoNotFound", "Repository not found")
        elif repo.gated and not known and "/resolve/" in self.path:
            self.error(401, "GatedRepo", "Access to the model is restricted")
        elif (commit := repo.resolve(revision)) is None:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo, commit
        return None

    def create(self) -> None:
        wanted = json.loads(self.body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(401)
            return
        name = f"{wanted['organization']}/{wanted['name']}"
        repo = self.hub.repos[name] = Repo(
            private=wanted.get("private", False) or wanted.get("visibility") == "private"
        )
        repo.commit({".gitattributes": b"*.safetensors filter=lfs"})
        self.json({"url": f"{self.hub.url}/{name}"})

    def api(self, name: str, what: str | None, revision: str) -> None:
        found = self.open(name, revision)
        if found is None:
            return
        repo, commit = found
        files = repo.commits[commit]
        if what in (None, "revision"):
            siblings = [{"rfilename": each} for each in files]
            self.json({"id": name, "sha": commit, "siblings": siblings, "private": repo.private})
        elif what == "tree":
            self.json([self.entry(each, content) for each, content in files.items()])
        elif what == "preupload":
            wanted = json.loads(self.body)["files"]
            self.json(
                {
                    "files": [
                        {
                            "path": each["path"],
                            "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                            "shouldIgnore": False,
                        }
                        for each in wanted
                    ]
                }
            )
        elif what == "commit":
            self.commit(name, repo, revision, files)

    def entry(self, name: str, content: Content) -> dict[str, Any]:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        entry = {"type": "file", "path": name, "size": size, "oid": sha(name, size)}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": etag(name, content), "size": size, "pointerSize": 130}
        return entry

    def commit(self, name: str, repo: Repo, branch: str, files: dict[str, Content]) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        (header,) = [line["value"] for line in lines if line["key"] == "header"]
        if header.get("parentCommit") not in (None, repo.branches[branch]):
            self.send(412, b"", {"X-Error-Message": "A commit has happened since."})
            return
        tree = dict(files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                tree[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        made = repo.commit(tree, branch)
        self.json({"commitUrl": f"{self.hub.url}/{name}/commit/{made}", "commitOid": made})

    def lfs(self, name: str, what: str) -> None:
        if what == "verify":
            self.json({})
            return
        objects = []
        for each in json.loads(self.body)["objects"]:
            answer = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.objects:
                verify = f"{self.hub.url}/{name}.git/info/lfs/objects/verify"
                upload = {"href": f"{self.hub.cdn}/lfs/{each['oid']}"}
                answer["actions"] = {"upload": upload, "verify": {"href": verify}}
            objects.append(answer)
        self.json({"transfer": "basic", "objects": objects})

    def resolve(self, name: str, revision: str, file: str) -> None:
        found = self.open(name, revision)
        if found is None:
            return
        repo, commit = found
        if file not in repo.commits[commit]:
            self.error(404, "EntryNotFound", "Entry not found")
            return
        content = repo.commits[commit][file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag(file, content)}"'}
        if not file.endswith(LARGE):
            self.serve(content, headers)
            return
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        location = f"{self.hub.cdn}/files/{commit}/{file}?expires={self.hub.expiry}"
        linked = {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(size)}
        self.send(302, b"", headers | linked | {"Location": location})


def etag(name: str, content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha256(f"{name} {content.stat().st_size}".encode()).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """Both servers, on free ports of this machine."""
    hub = Hub()
    servers = []
    for kind in (Api, Cdn):
        handler = type(kind.__name__, (kind,), {"hub": hub})
        servers.append(Server(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
    # Two names of this machine: to some versions of the client another port is no other host.
    hub.url, hub.cdn = (
        f"http://{host}:{server.server_port}"
        for host, server in zip(("127.0.0.1", "localhost"), servers, strict=True)
    )
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
