"""The cache of Hub downloads: files whose content is not what their name says are fetched again."""

import hashlib
import json
import warnings
from contextlib import suppress
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from tqdm import tqdm

from sana_scale.files import write_json

CHECKED = ".sana-checked.json"
"""Beside the cache's blobs: the modification time and size at which each was last found whole."""
_CHUNK = 2**22
_ALGORITHMS = {64: "sha256", 40: "sha1"}  # by the digits of a name: of large files, and git's of the others


def mend_cache(repo: str, index: str, *, revision: str | None = None) -> list[str]:
    """Fetches every damaged file of a cached repository again, and returns their paths in it.

    The cache names each file's content by its hash. A file is read once, and again when its time or size is another.
    Warns with the files that were fetched. Where the cache holds copies and not links (Windows without developer mode)
    nothing is known.

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
    snapshot = Path(found).parents[len(Path(index).parts) - 1]
    damaged = _damaged(snapshot)
    for name, content in damaged.items():
        try:
            hf_hub_download(repo, name, revision=snapshot.name, force_download=True)
        except (OSError, ValueError) as error:  # ValueError: huggingface_hub was told to stay offline
            raise OSError(
                f"{name} of {repo} is damaged in the cache ({content}), and the Hub was not reached: load once with a "
                "network and without HF_HUB_OFFLINE, which fetches it again, or copy that file from another cache"
            ) from error
    if damaged:
        warnings.warn(f"{', '.join(damaged)} of {repo} were damaged in the cache: fetched again", stacklevel=3)
    return list(damaged)


def _damaged(snapshot: Path) -> dict[str, Path]:
    """The contents that are not what their names say, by the names in the repository."""
    stamps = snapshot.parents[1] / CHECKED
    checked: dict[str, list[int]] = {}
    with suppress(OSError, ValueError):
        checked = json.loads(stamps.read_text(encoding="utf-8"))
    whole, damaged = dict(checked), dict[str, Path]()
    links = [path for path in sorted(snapshot.rglob("*")) if path.is_symlink()]
    quiet = bool(are_progress_bars_disabled())
    for link in tqdm(links, desc="checking the cache", unit="file", delay=1, disable=quiet):
        content = link.resolve()
        if not content.is_file():
            continue  # fetched as any file that is not there
        stamp = [content.stat().st_mtime_ns, content.stat().st_size]
        if checked.get(content.name) == stamp:
            continue
        if _is_whole(content):
            whole[content.name] = stamp
        else:
            damaged[link.relative_to(snapshot).as_posix()] = content
    if whole != checked:
        with suppress(OSError):  # a cache that may only be read
            write_json(stamps, whole)
    return damaged


def _is_whole(content: Path) -> bool:
    algorithm = _ALGORITHMS.get(len(content.name))
    if algorithm is None:
        return True  # named by an etag that is no hash
    start = f"blob {content.stat().st_size}\0".encode() if algorithm == "sha1" else b""
    digest = hashlib.new(algorithm, start, usedforsecurity=False)
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == content.name
