"""sana index-dataset: a manifest of the images of a folder and of its WebDataset tars, which stay as they are."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sana.commands.messages import RERUN, messages, warn_of_skipped
from sana.commands.options import JsonOption, MaxSkippedOption, ProgressOption


def index_dataset(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images with captions beside them, or tars.")],
    max_skipped: MaxSkippedOption = 0.01,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Write FOLDER/manifest.parquet; nothing is extracted or copied."""
    with messages(to_resume=RERUN, progress=progress):
        from sana.dataset_encoding import MANIFEST, NOT_INDEXED, index
        from sana_train.data import counts_by_reason

        manifest, skipped = index(folder, folder, max_skipped=max_skipped, progress=progress)
        captions = sum(len(captions or ()) for captions in manifest.column("captions"))
        if as_json:
            print(json.dumps({"images": len(manifest), "captions": captions, "skipped": counts_by_reason(skipped)}))
        else:
            print(f"{folder / MANIFEST}: {len(manifest):,} images, {captions:,} captions")
        warn_of_skipped(skipped, folder / NOT_INDEXED)
