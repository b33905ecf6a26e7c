"""sana caption-dataset: one more caption for each image of a manifest, by an image-to-text model of transformers."""

from pathlib import Path
from typing import Annotated

import typer

from sana.commands.messages import RERUN, messages, warn_of_skipped
from sana.commands.options import DeviceOption, MaxSkippedOption, ProgressOption


def caption_dataset(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST_OR_FOLDER", help="Images to caption.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="New manifest, in the same folder.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id, such as Qwen/Qwen2.5-VL-3B-Instruct.")],
    prompt: Annotated[
        str | None, typer.Option(help="What to ask the model; a detailed description if left out.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens in a caption.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Images captioned together.")] = 8,
    max_skipped: MaxSkippedOption = 0.01,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Caption a data set; run it once per model. Rerun to resume; several processes on one disk share the work."""
    with messages(to_resume=RERUN, progress=progress):
        from sana.caption_passes import Labelled, run_pass
        from sana.devices import half_on_gpu, usable_device
        from sana_train.data import ImageManifest, TransformersCaptioner, caption_images

        on = usable_device(device)

        def label(manifest: ImageManifest, work: Path) -> Labelled:
            captioner = TransformersCaptioner.from_pretrained(
                model, dtype=half_on_gpu(on), device=on, prompt=prompt, max_new_tokens=max_new_tokens
            )
            return caption_images(
                manifest, captioner, work, batch_size=batch_size, max_skipped=max_skipped, progress=progress
            )

        labelled, skipped, listed = run_pass(source, out, label, max_skipped=max_skipped, progress=progress)
        print(f"{out}: {len(labelled):,} images, {sum(map(len, labelled.column('captions'))):,} captions")
        warn_of_skipped(skipped, listed)
