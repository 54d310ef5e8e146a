"""A Hugging Face Hub on loopback: repositories, commits, large files; what huggingface_hub speaks."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_TokenOfTheTestThatNobodyMayRead"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    private: bool
    gated: bool = False
    branches: dict = field(default_factory=dict)  # name -> commit
    commits: dict = field(default_factory=dict)  # commit -> {path: content}

    def commit(self, branch, files):
        stated = json.dumps([branch, len(self.commits), sorted(files)])
        name = hashlib.sha1(stated.encode()).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name


class Refused(Exception):
    def __init__(self, status, code, message="refused"):
        self.status, self.code, self.message = status, code, message


class Hub(ThreadingHTTPServer):
    """The server. What it was asked stands in `asked`; `broken` names requests that fail."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.large = {}, {}  # large files by sha256
        self.asked = []  # (host without port, method, path, authorization)
        self.broken = {}  # "METHOD prefix" -> [times, bytes to let through or a status]
        self.chunk_size = None  # of large uploads in parts

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def paths(self, method):
        return [path for _, asked, path, _ in self.asked if asked == method]

    def stop(self):
        """Stop, and close connections that are kept open."""
        from huggingface_hub import close_session

        close_session()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # connections that a test cuts


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.handled()

    do_HEAD = do_POST = do_PUT = do_GET

    def handled(self):
        hub, host = self.server, self.headers["Host"].split(":")[0]
        self.path = unquote(urlsplit(self.path).path)
        hub.asked.append((host, self.command, self.path, self.headers.get("Authorization")))
        self.limit = None
        for asked, (times, amount) in hub.broken.items():
            method, prefix = asked.split(" ")
            if method == self.command and self.path.startswith(prefix) and times > 0:
                hub.broken[asked][0] -= 1
                self.limit = amount
        if self.limit is not None and self.limit >= 400:
            return self.answer({"error": "out of order"}, self.limit)
        length = int(self.headers.get("Content-Length", 0))
        if self.command == "PUT" and self.limit is not None:
            self.rfile.read(min(self.limit, length))
            return self.cut()
        self.body = (
            self.read_chunks() if self.headers.get("Transfer-Encoding") else self.rfile.read(length)
        )
        try:
            self.route()
        except Refused as error:
            self.answer(
                {"error": error.message},
                error.status,
                {"X-Error-Code": error.code, "X-Error-Message": error.message},
            )

    def read_chunks(self):
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def cut(self):
        self.close_connection = True
        self.connection.shutdown(2)

    def route(self):
        name = r"(?P<id>[^/]+/[^/]+?)"
        for method, pattern, action in (
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", self.validate),
            ("GET", rf"/api/models/{name}(?:/revision/(?P<revision>.+))?", self.info),
            ("POST", rf"/api/models/{name}/branch/(?P<revision>.+)", self.branch),
            ("POST", rf"/api/models/{name}/preupload/(?P<revision>.+)", self.preupload),
            ("POST", rf"/api/models/{name}/commit/(?P<revision>.+)", self.commit),
            ("POST", rf"/{name}\.git/info/lfs/objects/batch", self.batch),
            ("PUT", r"/large/(?P<oid>[0-9a-f]{64})", self.store),
            ("PUT", r"/part/(?P<oid>[0-9a-f]{64})/(?P<part>\d+)", self.store_part),
            ("POST", r"/complete/(?P<oid>[0-9a-f]{64})", self.complete),
            ("GET", r"/cdn/(?P<oid>[0-9a-f]{64})", self.cdn),
            ("GET", rf"/{name}/resolve/(?P<revision>[^/]+|refs/pr/\d+)/(?P<file>.+)", self.resolve),
        ):
            asked = "GET" if self.command == "HEAD" else self.command
            if asked == method and (found := re.fullmatch(pattern, self.path)):
                return action(**found.groupdict())
        raise Refused(404, "Unknown", f"no {self.command} {self.path}")

    def answer(self, value, status=200, headers=None):
        self.content(json.dumps(value).encode(), status, headers or {})

    def content(self, content, status, headers):
        self.send_response(status)
        for key, text in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if self.limit is None else content[: self.limit])
            if self.limit is not None:
                self.wfile.flush()
                self.cut()

    @property
    def known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repo(self, id, write=False):
        if write and not self.known:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        repo = self.server.repos.get(id)
        if repo is None or (repo.private and not self.known):
            raise Refused(404, "RepoNotFound")
        return repo

    def at(self, repo, revision):
        commit = repo.branches.get(revision or "main", revision)
        if commit not in repo.commits and repo.commits:
            raise Refused(404, "RevisionNotFound")
        return commit, repo.commits.get(commit, {})

    def create(self):
        if not self.known:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        asked = json.loads(self.body)
        id = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "others":
            raise Refused(403, "", "You don't have the rights to create a model under others")
        if id in self.server.repos:
            raise Refused(409, "", "exists")
        self.server.repos[id] = Repo(private=asked.get("visibility") == "private")
        self.server.repos[id].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.answer({"url": f"{self.server.url}/{id}"})

    def validate(self):
        content = json.loads(self.body)["content"]
        bad = "license: no-such-licence" in content
        errors = [{"message": '"license" must be one of [apache-2.0, mit]'}] if bad else []
        self.answer({"errors": errors, "warnings": []}, 400 if bad else 200)

    def info(self, id, revision):
        repo = self.repo(id)
        commit, files = self.at(repo, revision)
        siblings = [{"rfilename": name} for name in files]
        self.answer({"id": id, "sha": commit, "private": repo.private, "siblings": siblings})

    def branch(self, id, revision):
        repo = self.repo(id, write=True)
        if revision in repo.branches:
            raise Refused(409, "", "exists")
        repo.commit(revision, dict(repo.commits[repo.branches["main"]]))
        self.answer({})

    @staticmethod
    def is_large(name):
        return name.endswith(".safetensors")

    def preupload(self, id, revision):
        _, there = self.at(self.repo(id, write=True), revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            name, oid = file["path"], None
            large = self.is_large(name)
            if name in there:
                oid = hashlib.sha256(there[name]).hexdigest() if large else git_oid(there[name])
            answers.append(
                {
                    "path": name,
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": oid,
                }
            )
        self.answer({"files": answers})

    def batch(self, id):
        self.repo(id, write=True)
        hub, objects = self.server, []
        for asked in json.loads(self.body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            upload = {"href": f"{hub.url}/large/{oid}", "header": {}}
            if hub.chunk_size:
                parts = range(1, -(-size // hub.chunk_size) + 1)
                header = {str(part): f"{hub.url}/part/{oid}/{part}" for part in parts}
                header["chunk_size"] = str(hub.chunk_size)
                upload = {"href": f"{hub.url}/complete/{oid}", "header": header}
            actions = {} if oid in hub.large else {"actions": {"upload": upload}}
            objects.append({"oid": oid, "size": size} | actions)
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, oid, content=None):
        content = self.body if content is None else content
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, "", "other content")
        self.server.large[oid] = content
        self.answer({})

    def store_part(self, oid, part):
        self.server.large[oid, int(part)] = self.body
        self.content(b"", 200, {"ETag": f'"{part}"'})

    def complete(self, oid):
        parts = [part["partNumber"] for part in json.loads(self.body)["parts"]]
        self.store(oid, b"".join(self.server.large[oid, part] for part in parts))

    def commit(self, id, revision):
        repo = self.repo(id, write=True)
        _, files = self.at(repo, revision)
        files = dict(files)
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        commit = repo.commit(revision, files)
        self.answer({"commitUrl": f"{self.server.url}/{id}/commit/{commit}", "commitOid": commit})

    def resolve(self, id, revision, file):
        repo = self.repo(id)
        if repo.gated and not self.known:
            raise Refused(401, "GatedRepo", "Access to this model is restricted")
        commit, files = self.at(repo, revision)
        if file not in files:
            error = Refused(404, "EntryNotFound")
            raise error
        content = files[file]
        if not self.is_large(file):
            return self.content(
                content, 200, {"ETag": f'"{git_oid(content)}"', "X-Repo-Commit": commit}
            )
        oid = hashlib.sha256(content).hexdigest()
        self.server.large.setdefault(oid, content)
        location = (
            f"http://localhost:{self.server.server_port}/cdn/{oid}"  # another host, as theirs
        )
        headers = {
            "X-Linked-Etag": f'"{oid}"',
            "X-Linked-Size": str(len(content)),
            "Location": location,
        }
        self.content(b"", 302, headers | {"ETag": '"redirect"', "X-Repo-Commit": commit})

    def cdn(self, oid):
        content, start = self.server.large[oid], 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
        total = len(content)
        content = content[start:]
        ranged = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {}
        self.content(content, 206 if start else 200, ranged | {"Accept-Ranges": "bytes"})


@contextmanager
def running_hub():
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.stop()
