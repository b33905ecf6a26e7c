"""What to do where a file of a Hub repository could not be had."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


class HubNotReachedError(FileNotFoundError):
    """The cache lacks a file, and the Hub, which may have it, could not be asked."""


@contextmanager
def absence_explained(repo_or_dir: str | PathLike[str], revision: str | None) -> Iterator[None]:
    """Says of a file that is missing whether the Hub was asked for it, and of a revision what else to ask for."""
    repo = str(repo_or_dir)
    try:
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
        what = f"the cache lacks files of {repo}" if is_absent else str(error).rstrip(".")
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} did not answer"
        raise HubNotReachedError(
            f"{what}. The Hub was not reached ({why}): load it once while online, which keeps it in the cache, or give "
            "a local folder"
        ) from error


def _is_reached(repo: str) -> bool:
    try:
        HfApi().model_info(repo, timeout=10)
    except HfHubHTTPError:
        return True  # and it answered something else
    except Exception:  # what huggingface_hub is built on, and so its errors, differ from release to release
        return False
    return True
