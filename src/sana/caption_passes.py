"""From one manifest to another in the same folder, with more said about its images."""

from collections.abc import Callable
from pathlib import Path

from sana.dataset_encoding import open_source
from sana_train.data import ImageManifest, Skipped, list_skipped_on_error, write_skipped

Labelled = tuple[ImageManifest, list[Skipped]]


def run_pass(
    source: Path,
    out: Path,
    label: Callable[[ImageManifest, Path], Labelled],
    *,
    max_skipped: float,
    progress: bool,
) -> tuple[ImageManifest, list[Skipped], Path]:
    """Label `source` with `label(manifest, work)` and write `out`.

    Returns the manifest, the skipped samples, and the path of their list.

    What is done so far is kept beside `out`, in a folder of the same name in `.work`, and taken up by the next call.

    Raises:
        FileNotFoundError: there is no such manifest or folder.
        ValueError: `out` is `source`, not a Parquet file, or in another folder, where its paths would lead nowhere.
    """
    if out.suffix != ".parquet" or out.resolve() == source.resolve():
        raise ValueError(f"OUT is {out}; give another file than {source}, in .parquet")
    folder = source if source.is_dir() else source.parent
    if out.parent.resolve() != folder.resolve():
        raise ValueError(f"OUT is {out}; it must be in {folder}: a manifest's paths are relative to its folder")
    manifest, _ = open_source(source, folder, max_skipped=max_skipped, progress=progress)
    listed = out.with_suffix(".skipped.jsonl")
    with list_skipped_on_error(listed):
        labelled, skipped = label(manifest, out.with_suffix(".work"))
    write_skipped(listed, skipped)
    labelled.write(out)
    return labelled, skipped, listed
