"""Files of Hub repositories: whole ones, and what to do where one could not be had."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from tqdm import tqdm

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
CHECKED = ".sana-checked.json"
"""Beside the cache's blobs: the modification time and size at which each was last found whole."""
_TRANSPORTS = ("requests", "httpx", "httpx2")  # what huggingface_hub is built on, from release to release


class HubNotReachedError(FileNotFoundError):
    """The cache lacks a file, and the Hub, which may have it, could not be asked."""


class DownloadBrokeError(ConnectionError):
    """The connection to the Hub broke while a file came."""


def download(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """Returns the folder of a repository in the cache, with its files of these patterns there, and whole.

    Raises:
        FileNotFoundError: The Hub or the cache lacks something: says what, and what to do.
        PermissionError: The Hub refuses the token.
        DownloadBrokeError: The connection broke. Another call fetches what had not come whole, and that anew.
    """
    with absence_explained(repo, revision), _break_explained(repo):
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    mend_snapshot(repo, folder, patterns)
    return folder


def mend_snapshot(repo: str, snapshot: Path, patterns: Sequence[str] = ("*",)) -> list[str]:
    """Fetches every damaged file of a folder of the cache again, warns of them, and returns their paths in it.

    The cache names each file's content by its hash. A file is read once, and again when its time or size is another.
    Where the cache holds copies and not links (Windows without developer mode) nothing is known.

    Raises:
        OSError: A file is damaged and the Hub is out of reach, the connection broke, or the Hub refuses the token.
    """
    damaged = _damaged(snapshot, patterns)
    for name, content in damaged.items():
        try:
            with refusal_explained(repo), _break_explained(f"{name} of {repo}"):
                hf_hub_download(repo, name, revision=snapshot.name, force_download=True)
        except (DownloadBrokeError, PermissionError):
            raise
        except (OSError, ValueError) as error:  # ValueError: huggingface_hub was told to stay offline
            raise OSError(
                f"{name} of {repo} is damaged in the cache ({content}), and the Hub was not reached: load once with a "
                "network and without HF_HUB_OFFLINE, which fetches it again, or copy that file from another cache"
            ) from error
    if damaged:
        warnings.warn(f"{', '.join(damaged)} of {repo} were damaged in the cache: fetched again", stacklevel=3)
    return list(damaged)


@contextmanager
def absence_explained(repo_or_dir: str | PathLike[str], revision: str | None) -> Iterator[None]:
    """Says of a file that is missing whether the Hub was asked for it, and of a revision what else to ask for."""
    repo = str(repo_or_dir)
    try:
        with refusal_explained(repo):
            yield
    except HubNotReachedError:
        raise
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo} has no revision {revision!r}: give a branch, tag or commit that "
            f"{constants.ENDPOINT}/{repo}/commits/main shows, or none for the newest"
        ) from error
    except FileNotFoundError as error:
        is_absent = isinstance(error, LocalEntryNotFoundError)
        if not is_absent and (Path(repo).exists() or not HUB_ID.fullmatch(repo) or _is_reached(repo)):
            raise
        listed = re.search(r"are missing( \(.+?\))", str(error))  # newer releases of huggingface_hub name the first
        what = f"the cache lacks files of {repo}{listed[1] if listed else ''}" if is_absent else str(error).rstrip(".")
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} did not answer"
        raise HubNotReachedError(
            f"{what}. The Hub was not reached ({why}): load it once while online, which keeps it in the cache, or give "
            "a local folder"
        ) from error


@contextmanager
def refusal_explained(repo: str) -> Iterator[None]:
    """Turns what the Hub answers to a wrong or expired token, even for a public model, into a PermissionError."""
    try:
        yield
    except PermissionError:
        raise  # explained within
    except Exception as error:
        if not _is_refusal(error):
            raise
        raise PermissionError(
            f"the Hub does not take this token for {repo}: `hf auth login`, or unset HF_TOKEN where the model is public"
        ) from error


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a 401 or 403 is behind an error, other than those that stand for a model that is not shown."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            hidden = isinstance(error, RepositoryNotFoundError | DisabledRepoError)
            return error.response.status_code in (401, 403) and not hidden
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _break_explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, RuntimeError) and type(error).__module__.partition(".")[0] not in _TRANSPORTS:
            raise  # a RuntimeError is hf_xet's
        raise DownloadBrokeError(
            f"the download of {what} broke off ({error}): call again; files that came whole are not fetched again"
        ) from error


def _is_reached(repo: str) -> bool:
    try:
        with refusal_explained(repo):
            HfApi().model_info(repo, timeout=10)
    except PermissionError:
        raise
    except HfHubHTTPError:
        return True  # and it answered something else
    except Exception:  # what huggingface_hub is built on, and so its errors, differ from release to release
        return False
    return True


def _damaged(snapshot: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """The contents that are not what their names say, by the names in the repository."""
    stamps = snapshot.parents[1] / CHECKED
    checked: dict[str, list[int]] = {}
    with suppress(OSError, ValueError):
        checked = json.loads(stamps.read_text(encoding="utf-8"))
    whole, damaged = dict(checked), dict[str, Path]()
    links = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_symlink()}
    names = [name for name in sorted(links) if any(fnmatch(name, pattern) for pattern in patterns)]
    quiet = bool(are_progress_bars_disabled())
    for name in tqdm(names, desc="checking the cache", unit="file", delay=1, disable=quiet):
        # The first link names the content's hash; newer clients have another behind it, to what repositories share.
        digest, content = Path(os.readlink(links[name])).name, links[name].resolve()
        if not content.is_file():
            continue  # fetched as any file that is not there
        stamp = [content.stat().st_mtime_ns, content.stat().st_size]
        if checked.get(digest) == stamp:
            continue
        if _is_whole(content, digest):
            whole[digest] = stamp
        else:
            damaged[name] = content
    if whole != checked:
        with suppress(OSError):  # a cache that may only be read
            temporary = stamps.with_name(f"{CHECKED}.{os.getpid()}")
            temporary.write_text(json.dumps(whole), encoding="utf-8")
            temporary.replace(stamps)
    return damaged


def _is_whole(content: Path, expected: str) -> bool:
    algorithm = {64: "sha256", 40: "sha1"}.get(len(expected))  # of large files, and git's of the others
    if algorithm is None:
        return True  # named by an etag that is no hash
    start = f"blob {content.stat().st_size}\0".encode() if algorithm == "sha1" else b""
    digest = hashlib.new(algorithm, start, usedforsecurity=False)
    with content.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest() == expected
