"""sana rewrite-captions: the best caption of each image also in Chinese, mixed, and with emoji."""

from pathlib import Path
from typing import Annotated

import typer

from sana.commands.messages import RERUN, messages, warn_of_skipped
from sana.commands.options import DeviceOption, MaxSkippedOption, ProgressOption


def rewrite_captions(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST_OR_FOLDER", help="Captions to rewrite.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="New manifest, in the same folder.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id of a language model.")],
    forms: Annotated[str, typer.Option(help="Forms to write, separated by commas.")] = "chinese,mixed,emoji",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens in a caption.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions rewritten together.")] = 8,
    max_skipped: MaxSkippedOption = 0.01,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Rewrite the captions of a data set. Rerun to resume; several processes on one disk share the work."""
    with messages(to_resume=RERUN, progress=progress):
        from sana.caption_passes import Labelled, run_pass
        from sana.devices import half_on_gpu, usable_device
        from sana_train.data import FORMS, ImageManifest, TransformersRewriter
        from sana_train.data import rewrite_captions as rewrite

        on, wanted = usable_device(device), forms.split(",")
        if unknown := [form for form in wanted if form not in FORMS]:
            raise ValueError(f"--forms is {forms!r}; {unknown[0]!r} is not one of {', '.join(FORMS)}")

        def label(manifest: ImageManifest, work: Path) -> Labelled:
            rewriter = TransformersRewriter.from_pretrained(
                model, dtype=half_on_gpu(on), device=on, max_new_tokens=max_new_tokens
            )
            chosen = [form for form in FORMS if form in wanted]
            return rewrite(
                manifest,
                rewriter,
                work,
                forms=chosen,
                batch_size=batch_size,
                max_skipped=max_skipped,
                progress=progress,
            )

        labelled, skipped, listed = run_pass(source, out, label, max_skipped=max_skipped, progress=progress)
        print(f"{out}: {len(labelled):,} images, {sum(map(len, labelled.column('captions'))):,} captions")
        warn_of_skipped(skipped, listed)
