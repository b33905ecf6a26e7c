"""sana score-captions: how well each caption of a manifest describes its image, by CLIP or SigLIP."""

from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from sana.commands.messages import RERUN, messages, warn_of_skipped
from sana.commands.options import DeviceOption, MaxSkippedOption, ProgressOption


def score_captions(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST_OR_FOLDER", help="Captions to score.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="New manifest, in the same folder.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id of a CLIP or SigLIP.")] = "openai/clip-vit-large-patch14",
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored together.")] = 32,
    max_skipped: MaxSkippedOption = 0.01,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Score the captions of a data set. Rerun to resume; several processes on one disk share the work."""
    with messages(to_resume=RERUN, progress=progress):
        from sana.caption_passes import Labelled, run_pass
        from sana.devices import half_on_gpu, usable_device
        from sana_train.data import CLIPScorer, ImageManifest
        from sana_train.data import score_captions as score

        on = usable_device(device)

        def label(manifest: ImageManifest, work: Path) -> Labelled:
            scorer = CLIPScorer.from_pretrained(model, dtype=half_on_gpu(on), device=on)
            return score(manifest, scorer, work, batch_size=batch_size, max_skipped=max_skipped, progress=progress)

        labelled, skipped, listed = run_pass(source, out, label, max_skipped=max_skipped, progress=progress)
        scores = [score for scores in labelled.column("scores") for score in scores if score is not None]
        mean = f", {fmean(scores):.2f} on average" if scores else ""
        print(f"{out}: {len(labelled):,} images, {len(scores):,} scores{mean}")
        warn_of_skipped(skipped, listed)
