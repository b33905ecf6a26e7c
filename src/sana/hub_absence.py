"""What to do where the Hub or its cache does not have what was asked for, or has it damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from sana.catalog import locate, nearest
from sana_dit.hub_download import mend_snapshot, refusal_explained


@contextmanager
def suggesting_names(repo_or_dir: str | Path, revision: str | None = None) -> Iterator[None]:
    """Turns the Hub's 404 into a FileNotFoundError that says what was asked for, and what to ask for instead."""
    repo = str(repo_or_dir)
    try:
        with refusal_explained(repo):
            yield
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo} has no revision {revision!r}: give a branch, tag or commit that "
            f"{constants.ENDPOINT}/{repo}/commits/main shows, or none for the newest"
        ) from error
    except GatedRepoError as error:
        raise PermissionError(
            f"{repo} is gated: ask for access on {constants.ENDPOINT}/{repo}, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"the Hub shows no model {repo!r}{_suggestion(repo)}: check its name, or, where it is private, "
            "`hf auth login` with a token that may read it"
        ) from error
    except FileNotFoundError as error:
        if not (suggestion := _suggestion(repo)):
            raise
        raise FileNotFoundError(f"{error}{suggestion}") from error


def mend_cache(repo: str, index: str, *, revision: str | None = None) -> list[str]:
    """Fetches every damaged file of a cached repository again, also those that no library reads: see `mend_snapshot`.

    Args:
        repo: Hub id.
        index: A file that tells where the cached revision lies.
        revision: Branch, tag or commit.

    Raises:
        OSError: A file is damaged and the Hub is out of reach.
    """
    found = try_to_load_from_cache(repo, index, revision=revision)
    if not isinstance(found, str):
        return []
    return mend_snapshot(repo, Path(found).parents[len(Path(index).parts) - 1])


def _suggestion(repo: str) -> str:
    meant = None if Path(repo).is_dir() or repo.count("/") != 1 else nearest(repo)
    return f" (did you mean {meant!r}?)" if meant and str(locate(meant)[0]) != repo else ""
