"""A model folder to the Hub: inspected first, uploaded in one commit that a second try resumes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from sana.publication import CARD, Publication

Existing = Literal["refuse", "update", "replace"]


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
        existing: What to do with a repository that holds other files: refuse, update (they stay), or replace them.
        tag: Name for the new revision.
        message: First line of the commit.
        token: Of the Hub; None is the one that `hf auth login` stored or HF_TOKEN names.

    Raises:
        ValueError: The name is no Hub id, or the repository holds other files and existing is "refuse".
        PermissionError: The Hub does not let this token write there.
        OSError: The Hub cannot be reached.
    """
    if existing not in get_args(Existing):
        raise ValueError(f"existing is {existing!r}; it must be one of {', '.join(get_args(Existing))}")
    if repo.count("/") != 1:
        raise ValueError(f"repo is {repo!r}; a Hub id is owner/name")
    api = HfApi(token=token)
    with _trouble_told(repo):
        others = _other_files(api, repo, publication)
        if others and existing == "refuse":
            raise ValueError(
                f"{repo} holds other files ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}): publish with "
                "existing='update' to leave them there, existing='replace' to remove them, or under another name"
            )
        api.create_repo(repo, private=private, exist_ok=True)
        commit = _upload(api, repo, publication, others if existing == "replace" else [], message)
        if tag is not None:
            api.create_tag(repo, tag=tag, revision=commit.oid)
    return str(commit.commit_url)


@contextmanager
def _trouble_told(repo: str) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # what huggingface_hub is built on, and so its errors, differ from release to release
        status = (
            error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
        )
        if status in (401, 403):
            raise PermissionError(
                f"the Hub does not let this token write to {repo}: log in with `hf auth login` with a token that may"
            ) from error
        raise OSError(
            f"{repo} was not published ({error}). Publish again: what the Hub already holds is not sent twice"
        ) from error


def _other_files(api: HfApi, repo: str, publication: Publication) -> list[str]:
    try:
        files = api.list_repo_files(repo)
    except RepositoryNotFoundError:
        return []
    return sorted(set(files) - publication.sizes.keys() - {".gitattributes"})


def _upload(api: HfApi, repo: str, publication: Publication, removed: list[str], message: str) -> CommitInfo:
    with tempfile.TemporaryDirectory() as name:
        card = Path(name) / CARD
        card.write_text(publication.card, encoding="utf-8")
        sources = {path: publication.folder / path for path in publication.sizes} | {CARD: card}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(source)) for path, source in sources.items()
        ]
        operations += [CommitOperationDelete(path_in_repo=path) for path in removed]
        return api.create_commit(repo, operations, commit_message=message)
