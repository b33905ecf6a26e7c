"""What to do where the Hub does not have what was asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from sana.catalog import locate, nearest


@contextmanager
def absence_explained(repo_or_dir: str | Path, revision: str | None = None) -> Iterator[None]:
    """Turns the Hub's 404 into a FileNotFoundError that says what was asked for, and what to ask for instead."""
    repo = str(repo_or_dir)
    try:
        yield
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo} has no revision {revision!r}: give a branch, tag or commit that "
            f"https://huggingface.co/{repo}/commits/main shows, or none for the newest"
        ) from error
    except GatedRepoError as error:
        raise PermissionError(
            f"{repo} is gated: ask for access on https://huggingface.co/{repo}, then `hf auth login`"
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


def _suggestion(repo: str) -> str:
    meant = None if Path(repo).is_dir() or repo.count("/") != 1 else nearest(repo)
    return f" (did you mean {meant!r}?)" if meant and str(locate(meant)[0]) != repo else ""
