"""The cache of Hub downloads: files whose content is not what their name says are fetched again."""

from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from sana_dit.hub_download import mend_snapshot


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
