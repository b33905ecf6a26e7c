"""The manifest: one Parquet row per image, which says where its bytes lie and what has been said about it."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sana_train.data.bad_samples import BadSampleError, Reason
from sana_train.data.image_reading import MAX_BYTES, SUFFIXES
from sana_train.data.image_records import NAMES, ImageRecord, checked_table, hashable_parts, import_pyarrow, schema
from sana_train.folders import replacing

if TYPE_CHECKING:
    import pyarrow

ARCHIVES, SOURCE = b"sana.archives", b"sana.source"
ROWS_TOGETHER = 2**15  # in Parquet; Arrow cannot read more than 2 GiB of captions together


class ImageManifest:
    """The rows of a manifest and the bytes that they point to.

    Args:
        table: with the columns of `ImageRecord`.
        root: the folder that `file` is below.

    Raises:
        ValueError: a column is missing or of another type, a key comes twice, a path leads outside of the root, or an
            archive is missing or has another size than it was indexed with. An image that is itself a link is looked at
            when it is read.
    """

    def __init__(self, table: "pyarrow.Table", root: str | Path) -> None:
        self.root = Path(root)
        self.table = checked_table(table, self.root)
        self._columns: dict[str, Any] = {name: self.table.column(name) for name in self.table.column_names}
        _check_keys(self._columns["key"].to_pylist(), self.root)
        self._check_files()

    @classmethod
    def read(cls, path: str | Path, *, root: str | Path | None = None) -> Self:
        """The manifest in a Parquet file, whose images are below `root`: the file's own folder unless given.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not Parquet; else as the class.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no manifest {path}: write one with `sana index-dataset FOLDER`")
        import_pyarrow()
        from pyarrow import parquet

        table = _read(partial(parquet.read_table, partitioning=None), path)
        return cls(table, path.parent if root is None else root)

    @staticmethod
    def source_of(path: Path) -> dict[str, Any]:
        """Facts of the folder that a manifest was made of, as they were then; empty where they were not noted."""
        from pyarrow import parquet

        metadata = _read(parquet.read_schema, path).metadata or {}
        facts: dict[str, Any] = json.loads(metadata.get(SOURCE, b"{}"))
        return facts

    @classmethod
    def of(cls, records: Iterable[ImageRecord], root: str | Path, *, source: Mapping[str, Any] | None = None) -> Self:
        """The manifest of `records`, which notes the sizes that their archives have now, and facts of its source."""
        records = list(records)
        columns = {name: [getattr(record, name) for record in records] for name in NAMES}
        archives = sorted({record.file for record in records if record.file.endswith(".tar")})
        sizes = {name: (Path(root) / name).stat().st_size for name in archives}
        notes = {ARCHIVES: json.dumps(sizes)} | ({SOURCE: json.dumps(source)} if source else {})
        return cls(import_pyarrow().table(columns, schema=schema()).replace_schema_metadata(notes), root)

    def with_records(self, records: Iterable[ImageRecord]) -> Self:
        """The same archives with other rows, such as with more captions."""
        columns: dict[str, list[Any]] = {name: [] for name in NAMES}
        for record in records:
            for name, column in columns.items():
                column.append(getattr(record, name))
        table = import_pyarrow().table(columns, schema=schema()).replace_schema_metadata(self.table.schema.metadata)
        return type(self)(table, self.root)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> ImageRecord:
        """The record of a row."""
        values = {name: column[index].as_py() for name, column in self._columns.items()}
        lists = {name: tuple(values[name]) for name in ("captions", "scores", "sources")}
        return ImageRecord(**values | lists)

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        values: list[Any] = self._columns[name].to_pylist()
        return values

    def bytes_of(self, record: ImageRecord) -> bytes:
        """The bytes of an image.

        Raises:
            BadSampleError: the file is not there, a link out of the root, or of another length than it was indexed
                with, or the image is too large.
        """
        if record.size > MAX_BYTES:
            raise BadSampleError(Reason.TOO_LARGE, f"it has {record.size:,} bytes, and at most {MAX_BYTES:,} are read")
        path = self.root / record.file
        if path.is_symlink() and not is_below(path, self.root):
            raise BadSampleError(Reason.OUTSIDE, f"{record.file} is a link that leads out of {self.root}")
        try:
            with path.open("rb") as file:
                file.seek(record.offset)
                content = file.read(record.size)
                longer = path.suffix.lower() in SUFFIXES and bool(file.read(1))
        except OSError as error:
            raise BadSampleError(Reason.MISSING, f"{record.file}: {error.strerror}") from error
        if len(content) < record.size:
            raise BadSampleError(
                Reason.TRUNCATED,
                f"{record.file} has {len(content):,} of its {record.size:,} bytes at {record.offset:,}",
            )
        if longer:
            raise BadSampleError(
                Reason.CHANGED, f"{record.file} had {record.size:,} bytes and has more: index it again"
            )
        return content

    def write(self, path: str | Path) -> None:
        """Write the Parquet file, whole or not at all."""
        from pyarrow import parquet

        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            parquet.write_table(self.table, file, compression="zstd", row_group_size=ROWS_TOGETHER)

    @property
    def sha256(self) -> str:
        """A hash of all rows and of the archives' sizes, by which two manifests are told apart."""
        return _hash_of(self.table, (self.table.schema.metadata or {}).get(ARCHIVES, b"{}"))

    def rows_sha256(self, rows: Sequence[int]) -> str:
        """A hash of some rows, in their order."""
        return _hash_of(self.table.take(rows), b"")

    def _check_files(self) -> None:
        """Every distinct path is below the root; every archive is as it was indexed."""
        from pyarrow import compute

        names = compute.unique(self._columns["file"]).to_pylist()
        parents = {name: name.rpartition("/")[0] for name in names if _is_plain(name)}
        below = {parent: is_below(self.root / parent, self.root) for parent in set(parents.values())}
        outside = [name for name in names if name not in parents or not below[parents[name]]]
        if outside:
            raise ValueError(
                f"the manifest points outside of {self.root} ({len(outside)} files, first {outside[0]!r}): its files "
                "must be below that folder; links out of it are not followed"
            )
        sizes: dict[str, int] = json.loads((self.table.schema.metadata or {}).get(ARCHIVES, b"{}"))
        for name in sorted(sizes.keys() & set(names)):
            path = self.root / name
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing, which the manifest has images in: bring it back")
            if (size := path.stat().st_size) != sizes[name]:
                raise ValueError(
                    f"{path} has {size:,} bytes and had {sizes[name]:,} when it was indexed: index it again"
                )


def _read(read: Callable[[Path], Any], path: Path) -> Any:
    pyarrow = import_pyarrow()
    try:
        return read(path)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file, or is damaged ({error}): write it again") from error


def _check_keys(keys: Sequence[str], root: Path) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise ValueError(f"the manifest of {root} has {len(twice)} keys more than once ({twice[:3]}): make them differ")


def _hash_of(table: "pyarrow.Table", first: bytes) -> str:
    digest = hashlib.sha256(first)
    for name in NAMES:
        for part in hashable_parts(table.column(name)):
            digest.update(part)
    return digest.hexdigest()


def _is_plain(name: str) -> bool:
    """Whether a path names no place above its folder; where links lead is another question."""
    return not (name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name)


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path leads to a place below the folder; links that go in circles lead nowhere else."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
