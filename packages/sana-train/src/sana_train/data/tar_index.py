"""Where the members of a WebDataset tar lie, so that they can be read in place: nothing is ever extracted."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sana_train.data.bad_samples import BadSampleError, Reason, Skipped


@dataclass(frozen=True, slots=True)
class Member:
    """The bytes of one file of a tar."""

    name: str
    offset: int
    size: int


@dataclass(slots=True)
class TarSample:
    """The files of a tar that share a key, which is their path up to the first dot of the name, by their suffixes."""

    key: str
    files: dict[str, Member] = field(default_factory=dict)


def tar_samples(path: Path, skipped: list[Skipped]) -> Iterator[TarSample]:
    """The samples of a tar in its order, files of one key being neighbours as in every WebDataset.

    Args:
        path: an uncompressed tar.
        skipped: takes the members whose path leads outside of the archive, and those that are not plain files.

    Raises:
        ValueError: the file is not a tar, or it is compressed, damaged, cut short, or several tars in one.
    """
    sample = None
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                try:
                    key, suffix = _key(member)
                except BadSampleError as error:
                    skipped.append(Skipped.of(f"{path.name}/{member.name}", error))
                    continue
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = TarSample(key)
                sample.files[suffix] = Member(member.name, member.offset_data, member.size)
            _check_end(path, archive.offset)
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is not a plain tar, or is cut short ({error}): unpack compressed ones to .tar"
        ) from error
    if sample is not None:
        yield sample


def _check_end(path: Path, end: int) -> None:
    """Raise ValueError unless zeros, and nothing else, follow the last member: tarfile takes damage for the end."""
    with path.open("rb") as file:
        file.seek(end)
        first = file.read(tarfile.BLOCKSIZE)
        if len(first) < tarfile.BLOCKSIZE:
            raise ValueError(f"{path} is cut short at byte {end:,}, before the end mark of a tar: fetch it again")
        rest: bytes = first
        while rest:
            if rest.strip(b"\0"):
                raise ValueError(
                    f"{path} is damaged at byte {end:,}, or several tars in one: fetch it again, or keep each tar in a "
                    "file of its own"
                )
            rest = file.read(2**20)


def _key(member: tarfile.TarInfo) -> tuple[str, str]:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise BadSampleError(Reason.OUTSIDE, f"{member.name!r} is not below the archive")
    if not member.isreg() or member.issparse():
        raise BadSampleError(Reason.OUTSIDE, f"{member.name!r} is a link, a device or sparse, not a plain file")
    stem, _, suffix = path.name.partition(".")
    return str(path.with_name(stem)) if stem else str(path), f".{suffix.lower()}"
