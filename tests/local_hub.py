"""A Hugging Face hub on this machine: repositories that its client reads, makes and commits to."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants


@dataclasses.dataclass
class Repository:
    """Files by their commits, and what branches and tags name."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]

    @property
    def files(self):
        """Of the main branch."""
        return self.commits[self.refs["main"]]

    @files.setter
    def files(self, files):
        self.commits[self.refs["main"]] = files


class LocalHub(http.server.ThreadingHTTPServer):
    """The server: a `refusal`, of a status and a code, is its answer to all; `fetched` names the files it gave."""

    def __init__(self, repositories):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.refusal, self.fetched = dict(repositories), None, []
        self.blobs = {}  # large files on their way into a commit
        self.address = f"http://127.0.0.1:{self.server_port}"

    @contextlib.contextmanager
    def serving(self, monkeypatch):
        """Within, the hub's client asks it."""
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", self.address)
        files_at = self.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files_at)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", self.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class Refused(Exception):
    """A status of HTTP, and the hub's code for the reason."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self):
        self.answer_or_refuse(
            {
                r"/api/models/([^/]+/[^/]+)": self.info,
                r"/api/models/([^/]+/[^/]+)/revision/([^/]+)": self.info,
                r"/api/models/([^/]+/[^/]+)/tree/([^/]+)": self.tree,
                r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": self.resolve,
            }
        )

    do_HEAD = do_GET

    def do_POST(self):
        self.answer_or_refuse(
            {
                r"/api/repos/create": self.create,
                r"/api/validate-yaml": lambda: self.answer({"warnings": [], "errors": []}),
                r"/api/models/([^/]+/[^/]+)/preupload/main": self.preupload,
                r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": self.batch,
                r"/api/models/([^/]+/[^/]+)/commit/main": self.commit,
            }
        )

    def do_PUT(self):
        self.answer_or_refuse({r"/blobs/(\w+)": self.put})

    def answer_or_refuse(self, routes):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        try:
            if self.server.refusal:
                raise Refused(*self.server.refusal)
            for pattern, route in routes.items():
                if found := re.fullmatch(pattern, path):
                    return route(*map(unquote, found.groups()))
            raise Refused(404, "EntryNotFound")
        except Refused as refused:
            status, code = refused.args
            headers = {"X-Error-Code": code, "X-Error-Message": "two\\nlines"}
            self.answer({"error": code}, status, headers)

    def files_at(self, id, revision):
        """The commit of a revision, and its files."""
        if id not in self.server.repositories:
            raise Refused(404, "RepoNotFound")
        repository = self.server.repositories[id]
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise Refused(404, "RevisionNotFound")
        return commit, repository.commits[commit]

    def info(self, id, revision="main"):
        commit, files = self.files_at(id, revision)
        self.answer(dict(id=id, sha=commit, siblings=[dict(rfilename=name) for name in files]))

    def tree(self, id, revision):
        _, files = self.files_at(id, revision)
        self.answer([dict(type="file", path=x, size=len(y), oid=etag(y)) for x, y in files.items()])

    def resolve(self, id, revision, name):
        commit, files = self.files_at(id, revision)
        if name not in files:
            raise Refused(404, "EntryNotFound")
        if self.command == "GET":
            self.server.fetched.append(name)
        self.answer(files[name], headers={"X-Repo-Commit": commit, "ETag": f'"{etag(files[name])}"'})

    def create(self):
        asked = json.loads(self.body)
        id = f"{asked['organization']}/{asked['name']}"
        address = f"{self.server.address}/{id}"
        if id in self.server.repositories:
            return self.answer({"error": "You already created this model repo", "url": address}, 409)
        self.server.repositories[id] = Repository({"0" * 40: {}}, {"main": "0" * 40})
        self.server.repositories[id].private = asked.get("visibility") == "private" or asked.get("private", False)
        self.answer({"url": address})

    def preupload(self, id):
        names = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
        self.answer({"files": [dict(path=x, uploadMode=modes[x], shouldIgnore=False) for x in names]})

    def batch(self, id):
        asked = json.loads(self.body)["objects"]
        objects = [x | {"actions": {"upload": {"href": f"{self.server.address}/blobs/{x['oid']}"}}} for x in asked]
        self.answer({"transfer": "basic", "objects": objects})

    def put(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.blobs[oid] = self.body
        self.answer({})

    def commit(self, id):
        _, files = self.files_at(id, "main")
        new = dict(files)
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                new[value["path"]] = self.server.blobs[value["oid"]]
        commit, repository = hashlib.sha1(self.body).hexdigest(), self.server.repositories[id]
        repository.commits[commit] = new
        repository.refs["main"] = commit
        address = f"{self.server.address}/{id}/commit/{commit}"
        self.answer(dict(success=True, commitOid=commit, commitUrl=address))

    def answer(self, content, status=200, headers=None):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def etag(content):
    return hashlib.sha1(content).hexdigest()
