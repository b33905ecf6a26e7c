"""sana encode-dataset: the latents and caption states that a transformer is trained on, in shards."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from sana.commands.messages import RERUN, messages, warn, warn_of_skipped
from sana.commands.options import DeviceOption, JsonOption, MaxSkippedOption, ProgressOption


def encode_dataset(
    source: Annotated[
        Path, typer.Argument(metavar="MANIFEST_OR_FOLDER", help="Manifest, or folder of images or tars.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the shards; those it already holds are kept.")],
    model: Annotated[str, typer.Option(help='Pipeline folder, Hub id, or "embedded".')] = "embedded",
    side: Annotated[int | None, typer.Option(help="Nominal pixels per side; the model's own if left out.")] = None,
    square: Annotated[
        bool, typer.Option(help="Crop all images to squares, instead of to aspect-ratio buckets.")
    ] = False,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Images or captions encoded together.")] = 8,
    max_captions: Annotated[
        int | None, typer.Option(min=1, help="Keep at most this many captions per image, the best ones.")
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out images whose best caption scores less.")] = None,
    max_upscale: Annotated[
        float | None, typer.Option(min=1, help="Leave out images that would be enlarged more than this.")
    ] = None,
    max_skipped: MaxSkippedOption = 0.01,
    max_tokens: Annotated[
        int | None, typer.Option(min=2, help="Number of caption tokens; the model's own if left out.")
    ] = None,
    tile: Annotated[int | None, typer.Option(help="Encode in tiles of this many pixels per side.")] = None,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="Encode every N-th shard only, for machines without a shared disk.")
    ] = "0/1",
    threads: Annotated[int, typer.Option(min=1, help="Threads that read images ahead.")] = 4,
    verify: Annotated[bool, typer.Option("--verify", help="Check the hashes of existing shards.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Also encode samples that are new, changed or repaired.")
    ] = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Encode a data set. Rerun to resume; several processes on one disk share the work."""
    with messages(to_resume=RERUN, progress=progress):
        from sana.dataset_encoding import NOT_INDEXED, load_encoders, open_source, trained_side
        from sana.devices import usable_device
        from sana_train.data import SKIPPED, AspectRatioBuckets, EncodingSettings, counts_by_reason
        from sana_train.data import encode_dataset as encode

        chosen = parsed_part(part)
        manifest, not_indexed = open_source(source, out, max_skipped=max_skipped, progress=progress, renew=retry)
        loaded = load_encoders(model, device=usable_device(device), max_tokens=max_tokens, tile=tile)
        f = loaded.encoders.f
        settings = EncodingSettings(
            buckets=AspectRatioBuckets(side or trained_side(model, f), multiple=f, square=square),
            shard_size=shard_size,
            batch_size=batch_size,
            max_captions=max_captions,
            min_score=min_score,
            max_upscale=max_upscale,
            max_skipped=max_skipped,
        )
        report = encode(
            manifest,
            out,
            loaded.encoders,
            settings,
            identity=loaded.identity,
            part=chosen,
            threads=threads,
            verify=verify,
            retry=retry,
            progress=progress,
        )
        if as_json:
            print(json.dumps(dataclasses.asdict(report) | {"skipped": counts_by_reason(report.skipped)}))
        else:
            print(f"{out}: {report.samples:,} images and {report.captions:,} captions in {report.shards:,} shards")
            if report.left_out:
                print(f"{report.left_out:,} images were left out for their score or size, as asked for")
        if loaded.captions.cut:
            warn(f"cut {loaded.captions.cut:,} captions to {loaded.identity['max_tokens']} tokens")
        warn_of_skipped(not_indexed, out / NOT_INDEXED)
        warn_of_skipped(report.skipped, out / SKIPPED)


def parsed_part(text: str) -> tuple[int, int]:
    """ "2/8" as (2, 8)."""
    first, slash, count = text.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise ValueError(
            f"--part is {text!r}; give the number of this part and the number of parts, such as 0/8, up to 7/8"
        )
    return int(first), int(count)
