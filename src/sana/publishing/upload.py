"""A model folder to the Hub: inspected first, uploaded in one commit that a second try resumes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha1
from pathlib import Path, PurePosixPath
from typing import get_args

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # documented, not marked as exported

from sana.choices import Existing
from sana.pipeline_folder import INDEX
from sana.publishing.card_problems import CARD
from sana.publishing.publication import PICKLES, Publication

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin.index.json", ".h5", ".msgpack", *PICKLES)


def publish(
    publication: Publication,
    repo: str,
    *,
    private: bool = False,
    existing: Existing = "refuse",
    tag: str | None = None,
    message: str = "Upload a Sana model",
    token: str | None = None,
) -> str:
    """Uploads a folder that `inspect_folder` found fit, and returns the address of the commit.

    A large file that the Hub already holds is not sent again, so that an interrupted upload goes on by calling this
    again; the repository changes only when everything is there.

    Args:
        publication: What to upload.
        repo: Hub id, "owner/name"; made if there is none.
        private: Whether a new repository is private.
        existing: What to do with a repository that holds anything else: refuse, update (other files stay, but for the
            weights of the folders that are uploaded), or replace it all.
        tag: Name for the new revision.
        message: First line of the commit.
        token: Of the Hub; None is the one that `hf auth login` stored or HF_TOKEN names.

    Raises:
        ValueError: The name is not a Hub id, the tag is taken, private is asked of a public repository, a part is to
            update a whole pipeline, or the repository holds other files, or others by these names, and existing is
            "refuse".
        PermissionError: No token is set, or the Hub does not let it write there.
        OSError: The Hub cannot be reached.
    """
    if existing not in get_args(Existing):
        raise ValueError(f"existing is {existing!r}; it must be one of {', '.join(get_args(Existing))}")
    check_hub_id(repo)
    api = HfApi(token=token)
    with _trouble_told(repo, "was not published", token):
        api.create_repo(repo, private=private, exist_ok=True)
        there = _look(api, repo)
        if private and not there.private:
            raise ValueError(
                f"{repo} is public: make it private in its settings if it is yours, or publish under another name"
            )
        if tag in there.tags:
            raise ValueError(f"{repo} already has a tag {tag}: give another name, or delete that tag first")
        removed = _removed(there, publication, existing, repo)
        commit = _upload(api, repo, publication, removed, message=message, parent=there.commit)
    if tag is not None:
        with _trouble_told(repo, f"is published, but its revision {commit.oid} has no tag", token):
            api.create_tag(repo, tag=tag, revision=commit.oid)
    return str(commit.commit_url)


def check_hub_id(repo: str, *, name: str = "repo") -> None:
    """Raises ValueError, calling it `name`, where no repository can be called so."""
    if repo.count("/") != 1:
        raise ValueError(f"{name} is {repo!r}; a Hub id is owner/name")
    validate_repo_id(repo)  # its HFValidationError is a ValueError


@contextmanager
def _trouble_told(repo: str, what: str, token: str | None) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # what huggingface_hub is built on, and so its errors, differ from release to release
        status = (
            error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
        )
        if status in (401, 403) and token is None and get_token() is None:
            raise PermissionError(
                f"no token is set, and {repo} cannot be written without one: `hf auth login`"
            ) from error
        if status in (401, 403):
            raise PermissionError(
                f"the Hub does not let this token write to {repo}: log in with `hf auth login` with a token that may"
            ) from error
        raise OSError(
            f"{repo} {what} ({error}). Publish again: what the Hub already holds is not sent twice"
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Repository:
    """What the Hub says of a repository before anything is sent."""

    private: bool
    commit: str
    tags: frozenset[str]
    files: dict[str, RepoFile]


def _look(api: HfApi, repo: str) -> _Repository:
    info = api.model_info(repo)
    listed = api.list_repo_tree(repo, recursive=True, revision=info.sha)
    return _Repository(
        private=bool(info.private),
        commit=str(info.sha),
        tags=frozenset(ref.name for ref in api.list_repo_refs(repo).tags),
        files={file.path: file for file in listed if isinstance(file, RepoFile) and file.path != ".gitattributes"},
    )


def _removed(there: _Repository, publication: Publication, existing: Existing, repo: str) -> list[str]:
    """The files that go; raises ValueError where anything would be lost that nobody said may be."""
    others = sorted(there.files.keys() - publication.sizes.keys())
    if existing == "replace":
        return others
    if INDEX in there.files and INDEX not in publication.sizes and existing == "update":
        raise ValueError(
            f"{repo} holds a pipeline, whose parts lie in folders: publish all of it, give another name, or remove "
            "what is there with existing='replace'"
        )
    if existing == "update":
        folders = {_folder(path) for path in publication.sizes if path.endswith(_WEIGHTS)}
        return [path for path in others if path.endswith(_WEIGHTS) and _folder(path) in folders]
    shared = sorted(there.files.keys() & publication.sizes.keys())
    changed = [path for path in shared if not _is_same(there.files[path], publication)]
    if lost := changed + others:
        raise ValueError(
            f"{repo} holds another model or version ({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}): publish "
            "with existing='update' to write over it and leave other files there, existing='replace' to remove them, "
            "or under another name"
        )
    return []


def _folder(path: str) -> str:
    return PurePosixPath(path).parent.as_posix()


def _is_same(file: RepoFile, publication: Publication) -> bool:
    """Whether the Hub's file is the one that would be uploaded, by the hash that the Hub keeps."""
    path = publication.folder / file.path
    if file.size != publication.sizes[file.path]:
        return False
    if file.lfs is not None:
        with path.open("rb") as opened:
            return file_digest(opened, "sha256").hexdigest() == file.lfs.sha256
    content = publication.card.encode() if file.path == CARD else path.read_bytes()
    return sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == file.blob_id


def _upload(
    api: HfApi, repo: str, publication: Publication, removed: list[str], *, message: str, parent: str
) -> CommitInfo:
    with tempfile.TemporaryDirectory() as name:
        card = Path(name) / CARD
        card.write_text(publication.card, encoding="utf-8", newline="")
        sources = {path: publication.folder / path for path in publication.sizes} | {CARD: card}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(source)) for path, source in sources.items()
        ]
        operations += [CommitOperationDelete(path_in_repo=path) for path in removed]
        return api.create_commit(repo, operations, commit_message=message, parent_commit=parent)
