"""sana caption-dataset: one more caption for each image of a manifest, by an image-to-text model of transformers."""

from pathlib import Path
from typing import Annotated

import typer

from sana.commands.messages import messages, warn_of_skipped


def caption_dataset(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST_OR_FOLDER", help="What to caption.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="The new manifest, in the same folder.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id, such as Qwen/Qwen2.5-VL-3B-Instruct.")],
    prompt: Annotated[str | None, typer.Option(help="What to ask; None asks for a detailed description.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest caption.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Images captioned together.")] = 8,
    max_skipped: Annotated[float, typer.Option(min=0, max=1, help="Fraction of bad samples to put up with.")] = 0.01,
    device: Annotated[str | None, typer.Option(help="Such as cuda, cuda:1 or cpu.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Caption a data set; run it once per model. A killed run goes on, and several on one disk share the work."""
    with messages(goes_on="the same command goes on"):
        from sana.caption_passes import Labelled, half_on_gpu, run_pass
        from sana.devices import usable_device
        from sana_train.data import ImageManifest, TransformersCaptioner, caption_images

        place = usable_device(device)

        def label(manifest: ImageManifest, work: Path) -> Labelled:
            captioner = TransformersCaptioner.from_pretrained(
                model, dtype=half_on_gpu(place), device=place, prompt=prompt, max_new_tokens=max_new_tokens
            )
            return caption_images(
                manifest, captioner, work, batch_size=batch_size, max_skipped=max_skipped, progress=progress
            )

        labelled, skipped, listed = run_pass(source, out, label, max_skipped=max_skipped, progress=progress)
        print(f"{out}: {len(labelled):,} images, {sum(map(len, labelled.column('captions'))):,} captions")
        warn_of_skipped(skipped, listed)
