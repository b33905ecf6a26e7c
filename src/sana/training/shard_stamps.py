"""Whether a resumed run has the shards it began with: by size and time, and by content where these differ."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sana.training.recorded_settings import recorded_settings
from sana_train import LatentShards
from sana_train.data import check_content
from sana_train.distributed import rank, world_size

Stamps = dict[str, list[int]]  # by a shard's name its size in bytes, and its time in nanoseconds


def stamps(data: LatentShards) -> Stamps:
    """What tells that a shard may have changed without reading it."""
    files = {header.path.name: header.path.stat() for header in data.headers}
    return {name: [file.st_size, file.st_mtime_ns] for name, file in files.items()}


def proved_stamps(data: LatentShards, run_dir: Path, *, progress: bool = True) -> Stamps:
    """The stamps that a run was started with, once each shard that has another one now is seen to be the same inside.

    Shards that came or went are left to whoever compares the run's settings.

    Raises:
        ValueError: the content of a shard is not what it was written with.
    """
    now = stamps(data)
    then: Stamps | None = (recorded_settings(run_dir) or {}).get("shard_stamps")
    if then is None:
        return now
    paths = [header.path for header in data.headers if header.path.name in then]
    _verify([path for path in paths if now[path.name] != then[path.name]], progress=progress)
    return then


def verify_folder(folder: str, *, progress: bool = True) -> None:
    """Read all shards of a folder and compare them with the hashes that they carry; several processes share them.

    Raises:
        ValueError: a shard has changed since it was written, is damaged, or carries no hash.
    """
    _verify(sorted(Path(folder).glob("*.safetensors")), progress=progress)


def _verify(paths: Sequence[Path], *, progress: bool) -> None:
    mine = paths[rank() :: world_size()]
    shown = progress and rank() == 0 and len(mine) > 0
    for path in tqdm(mine, desc="checking shards", unit=" shards", disable=not shown, leave=False):
        check_content(path)
