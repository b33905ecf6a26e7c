"""One image of a manifest, and the checks that a table of images of whatever origin has to pass."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a manifest.

    Attributes:
        key: names it in logs and draws; no two images share one.
        file: image or tar, below the manifest's root, with forward slashes.
        offset: where in `file` its bytes begin.
        size: how many there are.
        height: in pixels, of the upright image.
        width: as height.
        captions: what it shows, in any number of words and ways.
        scores: CLIP score of each caption, None where there is none yet.
        sources: who wrote each caption.
    """

    key: str
    file: str
    offset: int
    size: int
    height: int
    width: int
    captions: tuple[str, ...] = ()
    scores: tuple[float | None, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def best_score(self) -> float | None:
        """The score of the caption that fits best, None where none has one."""
        return max((score for score in self.scores if score is not None), default=None)


NAMES = [field.name for field in fields(ImageRecord)]


def schema() -> "pyarrow.Schema":
    """The columns of a manifest and their types: large ones, since others hold at most 2 GiB of captions."""
    pyarrow = import_pyarrow()
    text, number = pyarrow.large_string(), pyarrow.int64()
    texts, scores = pyarrow.large_list(text), pyarrow.large_list(pyarrow.float64())
    kinds = [text, text, *[number] * 4, texts, scores, texts]
    return pyarrow.schema(list(zip(NAMES, kinds, strict=True)))


def checked_table(table: "pyarrow.Table", root: Path) -> "pyarrow.Table":
    """The columns of the schema in its types; others are left out."""
    if missing := [name for name in NAMES if name not in table.column_names]:
        raise ValueError(f"the manifest of {root} lacks the columns {', '.join(missing)}: write it again")
    pyarrow = import_pyarrow()
    wanted = schema().with_metadata(table.schema.metadata)
    try:
        table = table.select(NAMES).cast(wanted).combine_chunks()
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, ValueError) as error:
        raise ValueError(f"the manifest of {root} has columns of other types ({error}): write it again") from error
    from pyarrow import compute

    for name, least in (("key", None), ("file", None), ("offset", 0), ("size", 0), ("height", 1), ("width", 1)):
        column = table.column(name)
        if column.null_count:
            raise ValueError(f"the manifest of {root} has rows without {name}: write it again")
        if least is not None and len(column) and (lowest := compute.min(column).as_py()) < least:
            raise ValueError(f"the manifest of {root} has {name} {lowest}; it must be at least {least}")
    return _aligned(table, root)


def _aligned(table: "pyarrow.Table", root: Path) -> "pyarrow.Table":
    """A score and a source for each caption: none is None or "", as NaN and lists that are not there are, too."""
    if _is_aligned(table):
        return table
    pyarrow = import_pyarrow()
    lists = {name: table.column(name).to_pylist() for name in ("captions", "scores", "sources")}
    lists["captions"] = [[caption or "" for caption in captions or ()] for captions in lists["captions"]]
    for name, none in (("scores", None), ("sources", "")):
        for row, (values, captions) in enumerate(zip(lists[name], lists["captions"], strict=True)):
            if values and len(values) != len(captions):
                key = table.column("key")[row].as_py()
                raise ValueError(
                    f"the manifest of {root} has {len(values)} {name} for the {len(captions)} captions of {key}: give "
                    "one for each, or none"
                )
            lists[name][row] = [none if value is None or value != value else value for value in values or ()] or [
                none
            ] * len(captions)
    for name, values in lists.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pyarrow.array(values, type=table.schema.field(name).type))
    return table.combine_chunks()


def _is_aligned(table: "pyarrow.Table") -> bool:
    """Whether that is so already, found out without a loop over rows."""
    from pyarrow import compute

    columns = {name: table.column(name) for name in ("captions", "scores", "sources")}
    lengths = [compute.list_value_length(column) for column in columns.values()]
    flat = {name: compute.list_flatten(column) for name, column in columns.items()}
    return (
        all(column.null_count == 0 for column in columns.values())
        and all(length.equals(lengths[0]) for length in lengths)
        and flat["captions"].null_count == flat["sources"].null_count == 0
        and not compute.any(compute.is_nan(flat["scores"])).as_py()
    )


def hashable_parts(column: Any) -> Iterator[bytes]:
    """The values of a checked column as bytes, the same wherever the table came from."""
    from pyarrow import compute, types

    if types.is_large_list(column.type):
        yield compute.list_value_length(column).to_numpy().tobytes()
        column = compute.list_flatten(column)
    if types.is_large_string(column.type):
        yield compute.binary_length(column).to_numpy().tobytes()
        for start in range(0, len(column), 2**16):
            yield "".join(column.slice(start, 2**16).to_pylist()).encode()
    else:  # a score that is None becomes NaN
        yield column.to_numpy().tobytes()


def import_pyarrow() -> Any:
    """The package; ImportError says where to get it."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("manifests need pyarrow: pip install 'sana-train[data]'") from error
    return pyarrow
