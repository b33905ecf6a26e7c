"""What the Hub answers: accounts, repositories, revisions, commits, and the two ways of large files (LFS and Xet)."""

import base64
import hashlib
import json
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import yaml

from tests.hub.repositories import File, Repository, is_large
from tests.hub.server import HubServer, Reply, Request, Route
from tests.hub.xet_store import find_xet_hash

KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}
ANY_KIND = r"(?P<kind>models|datasets|spaces)"
REPOSITORY = r"(?P<repository>[^/]+/[^/]+?)"
TIME = "2026-01-01T00:00:00.000Z"

InRepository = Callable[[HubServer, Request, Repository, dict[str, str]], Reply]


def whoami(hub: HubServer, request: Request, _: re.Match[str]) -> Reply:
    if not request.authorized:
        return Reply.error(401, "Unauthorized", "Invalid user token.")
    access = {"accessToken": {"role": "write", "displayName": "tests"}, "type": "access_token"}
    return Reply(200, {"name": hub.user, "type": "user", "orgs": [], "auth": access})


def validate_card(hub: HubServer, request: Request, _: re.Match[str]) -> Reply:
    return Reply(200, {"errors": [], "warnings": []})


def create_repository(hub: HubServer, request: Request, _: re.Match[str]) -> Reply:
    if not request.authorized:
        return Reply.error(401, "Unauthorized", "Invalid user token.")
    asked = request.json()
    owner = asked.get("organization") or hub.user
    if owner != hub.user:
        return Reply.error(403, "Forbidden", f"You don't have the rights to create a model under the namespace {owner}")
    name = f"{owner}/{asked['name']}"
    key = KINDS[asked.get("type") or "model"], name
    url = f"{hub.url}/{name}"
    if key in hub.repositories:
        message = "You already created this model repo"
        return Reply(409, {"error": message, "url": url}, {"X-Error-Message": message})
    private = bool(asked.get("private")) or asked.get("visibility") == "private"
    hub.repositories[key] = Repository(name, private)
    return Reply(200, {"url": url, "name": name, "id": name})


def in_repository(route: InRepository, *, writes: bool = False) -> Route:
    """A route of a repository that exists, and that the client may see and, where it writes, write to."""

    def find(hub: HubServer, request: Request, match: re.Match[str]) -> Reply:
        parts = {name: part for name, part in match.groupdict().items() if part is not None}
        repository = hub.repositories.get((parts.get("kind", "models"), parts["repository"]))
        if repository is None or (repository.private and not request.authorized):
            return Reply.error(404 if request.authorized else 401, "RepoNotFound", "Repository not found")
        if writes and not (request.authorized and repository.name.startswith(f"{hub.user}/")):
            return Reply.error(403, "Forbidden", "You don't have the rights to write to this repository")
        revision = parts.get("revision")
        if revision is not None and repository.resolve(revision) is None:
            return Reply.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return route(hub, request, repository, parts)

    find.__name__ = route.__name__
    return find


def info(hub: HubServer, request: Request, repository: Repository, parts: dict[str, str]) -> Reply:
    oid = repository.resolve(parts.get("revision"))
    assert oid is not None
    tree = repository.trees[oid]
    card = _card(tree.get("README.md"))
    facts = {"id": repository.name, "modelId": repository.name, "author": repository.name.split("/")[0], "sha": oid}
    facts |= {"_id": "0", "private": repository.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
    facts |= {"tags": card.get("tags", []), "cardData": card, "createdAt": TIME, "lastModified": TIME}
    facts |= {name: card.get(name) for name in ("pipeline_tag", "library_name")}
    return Reply(200, facts | {"siblings": [{"rfilename": path} for path in tree]})


def tree(hub: HubServer, request: Request, repository: Repository, parts: dict[str, str]) -> Reply:
    files = repository.trees[str(repository.resolve(parts["revision"]))]
    folder = parts.get("folder", "").rstrip("/")
    inside = {path: file for path, file in files.items() if not folder or path.startswith(f"{folder}/")}
    return Reply(200, [_described(path, file) for path, file in inside.items()])


def paths_info(hub: HubServer, request: Request, repository: Repository, parts: dict[str, str]) -> Reply:
    files = repository.trees[str(repository.resolve(parts["revision"]))]
    form = "urlencoded" in (request.headers.get("Content-Type") or "")
    asked = urllib.parse.parse_qs(request.body.decode()) if form else request.json()
    return Reply(200, [_described(path, files[path]) for path in asked.get("paths", []) if path in files])


def refs(hub: HubServer, request: Request, repository: Repository, parts: dict[str, str]) -> Reply:
    def listed(names: dict[str, str], kind: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in names.items()]

    branches, tags = listed(repository.branches, "heads"), listed(repository.tags, "tags")
    return Reply(200, {"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def tag(hub: HubServer, request: Request, repository: Repository, parts: dict[str, str]) -> Reply:
    name = request.json()["tag"]
    if name in repository.tags:
        return Reply.error(409, "", f"Tag {name} already exists")
    repository.tags[name] = str(repository.resolve(parts["revision"]))
    return Reply(200, {})


def preupload(hub: HubServer, request: Request, repository: Repository, parts: dict[str, str]) -> Reply:
    files = repository.trees[str(repository.resolve(parts["revision"]))]
    modes = []
    for asked in request.json()["files"]:
        known = files.get(asked["path"])
        mode = "lfs" if is_large(asked["path"], asked["size"]) else "regular"
        oid = None if known is None else known.sha256 or known.oid
        modes.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Reply(200, {"files": modes})


def commit(hub: HubServer, request: Request, repository: Repository, parts: dict[str, str]) -> Reply:
    head = str(repository.resolve(parts["revision"]))
    files, message = dict(repository.trees[head]), ""
    for line in request.body.splitlines():
        operation = json.loads(line)
        value = operation["value"]
        if operation["key"] == "header":
            message = value["summary"]
            if value.get("parentCommit") not in (None, head):
                return Reply.error(412, "", "A commit has happened since. Please refresh and try again.")
        elif operation["key"] == "file":
            files[value["path"]] = File.small(base64.b64decode(value["content"]))
        elif operation["key"] == "lfsFile":
            xet = None if value["oid"] in hub.large else find_xet_hash(hub.root / "xet", value["oid"])
            files[value["path"]] = File.large(value["oid"], value["size"], xet)
        else:
            gone = value["path"].rstrip("/")
            files = {path: file for path, file in files.items() if path != gone and not path.startswith(f"{gone}/")}
    oid = repository.commit(files, message, parts["revision"] if parts["revision"] in repository.branches else "main")
    url = f"{hub.url}/{repository.name}/commit/{oid}"
    return Reply(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})


def resolve(hub: HubServer, request: Request, repository: Repository, parts: dict[str, str]) -> Reply:
    oid = str(repository.resolve(parts["revision"]))
    file = repository.trees[oid].get(parts["path"])
    headers = {"X-Repo-Commit": oid}
    if file is None:
        return Reply(404, {"error": "Entry not found"}, headers | {"X-Error-Code": "EntryNotFound"})
    if file.content is not None:
        return _content(request, file.content, headers | {"ETag": f'"{file.oid}"'})
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    headers |= {"Location": f"{hub.storage_url}/_large/{file.sha256}"}
    if file.xet:
        where = f"{hub.url}/api/models/{repository.name}/xet-read-token/{oid}"
        headers |= {"X-Xet-Hash": file.xet, "Link": f'<{where}>; rel="xet-auth"'}
    return Reply(302, b"", headers)


def lfs_batch(hub: HubServer, request: Request, repository: Repository, parts: dict[str, str]) -> Reply:
    objects = []
    for asked in request.json()["objects"]:
        entry = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in hub.large:
            where = f"{hub.url}/_large/{asked['oid']}"
            entry["actions"] = {"upload": {"href": where}, "verify": {"href": f"{hub.url}/_verify"}}
        objects.append(entry)
    kind = {"Content-Type": "application/vnd.git-lfs+json"}
    return Reply(200, {"transfer": "basic", "objects": objects}, kind)


def upload(hub: HubServer, request: Request, match: re.Match[str]) -> Reply:
    if hub.refuse_uploads and hub.large:
        hub.refuse_uploads -= 1
        return Reply.error(400, "Interrupted", "the upload was interrupted")
    if hashlib.sha256(request.body).hexdigest() != match["sha256"]:
        return Reply.error(400, "BadHash", "the sha256 of the content is another")
    hub.large[match["sha256"]] = request.body
    return Reply(200)


def verify(hub: HubServer, request: Request, _: re.Match[str]) -> Reply:
    asked = request.json()
    return Reply(200 if len(hub.large.get(asked["oid"], b"")) == asked["size"] else 404, {})


def download(hub: HubServer, request: Request, match: re.Match[str]) -> Reply:
    if "Range" in request.headers:
        hub.ranges.append(request.headers["Range"])
    reply = _content(request, hub.large[match["sha256"]], {})
    if request.method == "GET":
        hub.downloads[match["sha256"]] += 1
    if hub.cut_downloads and request.method == "GET" and hub.cut_only in (None, match["sha256"]):
        hub.cut_downloads -= 1
        reply.headers["X-Cut"] = "1"
    return reply


def xet_token(hub: HubServer, request: Request, repository: Repository, parts: dict[str, str]) -> Reply:
    store, expiry = f"local://{hub.root / 'xet'}", int(time.time()) + 3600
    headers = {"X-Xet-Cas-Url": store, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": str(expiry)}
    return Reply(200, {"casUrl": store, "exp": expiry, "accessToken": "t"}, headers)


def _content(request: Request, content: bytes, headers: dict[str, str]) -> Reply:
    headers = headers | {"Accept-Ranges": "bytes"}
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if match is None:
        return Reply(200, content, headers)
    start, end = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
    return Reply(206, content[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"})


def _described(path: str, file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
    if file.sha256:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
    return entry | ({"xetHash": file.xet} if file.xet else {})


def _card(readme: File | None) -> dict[str, Any]:
    text = "" if readme is None or readme.content is None else readme.content.decode()
    return (yaml.safe_load(text.split("---")[1]) or {}) if text.startswith("---") else {}


_API = f"/api/{ANY_KIND}/{REPOSITORY}"
ROUTES: tuple[tuple[str, str, Route], ...] = (
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/validate-yaml", validate_card),
    ("POST", "/api/repos/create", create_repository),
    ("GET", rf"{_API}(?:/revision/(?P<revision>.+))?", in_repository(info)),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", in_repository(tree)),
    ("POST", rf"{_API}/paths-info/(?P<revision>.+)", in_repository(paths_info)),
    ("GET", rf"{_API}/refs", in_repository(refs)),
    ("POST", rf"{_API}/tag/(?P<revision>.+)", in_repository(tag, writes=True)),
    ("POST", rf"{_API}/preupload/(?P<revision>.+)", in_repository(preupload, writes=True)),
    ("POST", rf"{_API}/commit/(?P<revision>.+)", in_repository(commit, writes=True)),
    ("GET", rf"{_API}/xet-read-token/(?P<revision>.+)", in_repository(xet_token)),
    ("GET", rf"{_API}/xet-write-token/(?P<revision>.+)", in_repository(xet_token, writes=True)),
    ("POST", rf"/{REPOSITORY}\.git/info/lfs/objects/batch", in_repository(lfs_batch, writes=True)),
    ("PUT", "/_large/(?P<sha256>[0-9a-f]{64})", upload),
    ("GET", "/_large/(?P<sha256>[0-9a-f]{64})", download),
    ("POST", "/_verify", verify),
    ("GET", rf"/{REPOSITORY}/(?:resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)", in_repository(resolve)),
)
