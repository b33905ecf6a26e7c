"""The manifest: one Parquet row per image, which says where its bytes lie and what has been said about it."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from sana_train.data.bad_samples import BadSampleError, Reason
from sana_train.data.image_reading import MAX_BYTES
from sana_train.data.image_records import NAMES, ImageRecord, checked_table, hashable_parts, import_pyarrow, schema

if TYPE_CHECKING:
    import pyarrow

ARCHIVES = b"sana.archives"


class ImageManifest:
    """The rows of a manifest and the bytes that they point to.

    Args:
        table: with the columns of `ImageRecord`.
        root: the folder that `file` is below.

    Raises:
        ValueError: a column is missing or of another type, a key comes twice, a path leads outside of the root, or an
            archive is missing or has another size than it was indexed with.
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
        pyarrow = import_pyarrow()
        from pyarrow import parquet

        try:
            table = parquet.read_table(path, partitioning=None)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError) as error:
            raise ValueError(f"{path} is no Parquet file, or damaged ({error}): write it again") from error
        return cls(table, path.parent if root is None else root)

    @classmethod
    def of(cls, records: Iterable[ImageRecord], root: str | Path) -> Self:
        """The manifest of `records`, which notes the sizes that their archives have now."""
        records = list(records)
        columns = {name: [getattr(record, name) for record in records] for name in NAMES}
        archives = sorted({record.file for record in records if record.file.endswith(".tar")})
        sizes = {name: (Path(root) / name).stat().st_size for name in archives}
        table = import_pyarrow().table(columns, schema=schema()).replace_schema_metadata({ARCHIVES: json.dumps(sizes)})
        return cls(table, root)

    def with_records(self, records: Iterable[ImageRecord]) -> Self:
        """The same archives with other rows, such as with more captions."""
        columns = {name: [] for name in NAMES}  # type: dict[str, list[Any]]
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
            BadSampleError: the file is not there, or ends before the image does, or the image is too large.
        """
        if record.size > MAX_BYTES:
            raise BadSampleError(Reason.TOO_LARGE, f"it has {record.size:,} bytes, and at most {MAX_BYTES:,} are read")
        try:
            with (self.root / record.file).open("rb") as file:
                file.seek(record.offset)
                content = file.read(record.size)
        except OSError as error:
            raise BadSampleError(Reason.MISSING, f"{record.file}: {error.strerror}") from error
        if len(content) < record.size:
            raise BadSampleError(
                Reason.TRUNCATED,
                f"{record.file} has {len(content):,} of its {record.size:,} bytes at {record.offset:,}",
            )
        return content

    def write(self, path: str | Path) -> None:
        """Write the Parquet file, whole or not at all."""
        from pyarrow import parquet

        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                parquet.write_table(self.table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """A hash of all rows and of the archives' sizes, by which two manifests are told apart."""
        digest = hashlib.sha256((self.table.schema.metadata or {}).get(ARCHIVES, b"{}"))
        for name in NAMES:
            for part in hashable_parts(self._columns[name]):
                digest.update(part)
        return digest.hexdigest()

    def _check_files(self) -> None:
        """Every distinct path is below the root; every archive is as it was indexed."""
        from pyarrow import compute

        root = self.root.resolve()
        names = compute.unique(self._columns["file"]).to_pylist()
        outside = [name for name in names if not _is_below(root, name)]
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


def _check_keys(keys: Sequence[str], root: Path) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise ValueError(f"the manifest of {root} has {len(twice)} keys more than once ({twice[:3]}): make them differ")


def _is_below(root: Path, name: str) -> bool:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return False
    return (root / name).resolve().is_relative_to(root)
