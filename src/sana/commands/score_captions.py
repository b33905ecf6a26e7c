"""sana score-captions: how well each caption of a manifest describes its image, by CLIP or SigLIP."""

from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from sana.commands.messages import messages, warn_of_skipped


def score_captions(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST_OR_FOLDER", help="Whose captions to score.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="The new manifest, in the same folder.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id.")] = "openai/clip-vit-large-patch14",
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored together.")] = 32,
    max_skipped: Annotated[float, typer.Option(min=0, max=1, help="Fraction of bad samples to put up with.")] = 0.01,
    device: Annotated[str | None, typer.Option(help="Such as cuda, cuda:1 or cpu.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Score the captions of a data set. A killed run goes on, and several on one disk share the work."""
    with messages(goes_on="the same command goes on"):
        from sana.caption_passes import Labelled, half_on_gpu, run_pass
        from sana.devices import usable_device
        from sana_train.data import CLIPScorer, ImageManifest
        from sana_train.data import score_captions as score

        place = usable_device(device)

        def label(manifest: ImageManifest, work: Path) -> Labelled:
            scorer = CLIPScorer.from_pretrained(model, dtype=half_on_gpu(place), device=place)
            return score(manifest, scorer, work, batch_size=batch_size, max_skipped=max_skipped, progress=progress)

        labelled, skipped, listed = run_pass(source, out, label, max_skipped=max_skipped, progress=progress)
        scores = [score for scores in labelled.column("scores") for score in scores if score is not None]
        mean = f", {fmean(scores):.2f} on average" if scores else ""
        print(f"{out}: {len(labelled):,} images, {len(scores):,} scores{mean}")
        warn_of_skipped(skipped, listed)
