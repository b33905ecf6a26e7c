"""The cache of Hub downloads: files whose content is not what their name says are fetched again."""

import hashlib
import warnings
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache

_CHUNK = 2**22


def mend_cache(repo: str, index: str, *, revision: str | None = None) -> list[str]:
    """Fetches every damaged file of a cached repository again, and returns their paths in it.

    The cache names each file's content by its hash: sha256 for large files, git's sha1 for the others. Warns with the
    files that differ. Where the cache holds copies and not links (Windows without developer mode) nothing is known.

    Args:
        repo: Hub id.
        index: A file that tells where the cached revision lies.
        revision: Branch, tag or commit.
    """
    found = try_to_load_from_cache(repo, index, revision=revision)
    if not isinstance(found, str):
        return []
    snapshot = Path(found).parents[len(Path(index).parts) - 1]
    links = [path for path in sorted(snapshot.rglob("*")) if path.is_symlink()]
    damaged = [path.relative_to(snapshot).as_posix() for path in links if not _is_whole(path)]
    if damaged:
        warnings.warn(f"{', '.join(damaged)} of {repo} are damaged in the cache: fetched again", stacklevel=3)
    for name in damaged:
        hf_hub_download(repo, name, revision=revision, force_download=True)
    return damaged


def _is_whole(link: Path) -> bool:
    content = link.resolve()
    if not content.is_file():
        return False
    name = content.name
    if len(name) == 64:
        digest = hashlib.sha256()
    elif len(name) == 40:
        digest = hashlib.sha1(f"blob {content.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return True  # named by an etag that is no hash
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == name
