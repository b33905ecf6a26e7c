"""From a manifest to shards of latents and caption states: resumable after any kill, shared by many processes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sana_train.data.bad_samples import Skipped, check_skipped, list_skipped_on_error, write_skipped
from sana_train.data.bucket_sampler import Size
from sana_train.data.encoding_plan import EncodingSettings, has_scores, plan_shards
from sana_train.data.image_manifest import ImageManifest
from sana_train.data.shard_encoding import Encoders, ShardEncoder
from sana_train.data.shard_files import check_content, read_header
from sana_train.data.work_folder import WorkFolder

SKIPPED = "skipped.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingReport:
    """What is in the folder after a run: of all processes, as far as they are done.

    Attributes:
        samples: images in the shards.
        captions: of these images.
        shards: that hold them.
        skipped: bad samples.
        left_out: images that `min_score` and `max_upscale` leave out, which are not bad.
    """

    samples: int
    captions: int
    shards: int
    skipped: list[Skipped]
    left_out: int


def encode_dataset(
    manifest: ImageManifest,
    out: str | Path,
    encoders: Encoders,
    settings: EncodingSettings,
    *,
    identity: Mapping[str, Any],
    part: tuple[int, int] = (0, 1),
    threads: int = 4,
    verify: bool = False,
    retry: bool = False,
    progress: bool = True,
) -> EncodingReport:
    """Write the shards of a manifest into `out`, those that are not there yet, for `LatentShards` to read.

    Which images make up a shard depends on manifest and settings alone. Any number of processes may work on one folder
    at a time and be killed at any instant; the same call goes on.

    Args:
        manifest: of the images and their captions.
        out: folder of the shards; `work/` in it says what is done, `skipped.jsonl` what was skipped and why.
        encoders: of images and captions.
        settings: how.
        identity: names the encoders, as JSON; `out` cannot mix shards of two.
        part: (i, n) does only every n-th shard, from the i-th on, for processes that share no locks.
        threads: that read images ahead.
        verify: read what is there already and compare it with its hash.
        retry: after the data has been fixed, and indexed again where files changed: make those shards again from which
            something was skipped, and those whose rows are others in this manifest.
        progress: whether to show a progress bar.

    Raises:
        ValueError: `out` was started otherwise, or many captions have no score while others have one.
        TooManyBadSamplesError: more images had to be skipped than `max_skipped` allows.
    """
    out = Path(out)
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part is {part[0]} of {part[1]}; it must be one of 0 to {part[1] - 1}")
    plan = plan_shards(manifest, settings)
    total = sum(len(rows) for _, rows in plan.values())
    scored = has_scores(manifest, [row for _, rows in plan.values() for row in rows], most=settings.max_skipped)
    work = _opened(out / "work", _fixed(manifest, encoders, settings, identity), retry=retry)
    hashes = {unit: f"{manifest.rows_sha256(rows)} {scored}" for unit, (_, rows) in plan.items()}
    _forget_stale(work, out, hashes, verify=verify, retry=retry)
    units = list(plan)[part[0] :: part[1]]
    encoder = ShardEncoder(manifest, encoders, settings, scored=scored, threads=threads)
    skipped = _report(work, plan, len(manifest)).skipped
    done = sum(len(plan[unit][1]) for unit in units if work.facts(unit) is not None)
    bar = tqdm(total=sum(len(plan[unit][1]) for unit in units), initial=done, unit="image", disable=not progress)
    with bar, list_skipped_on_error(out / SKIPPED):
        check_skipped(skipped, total=total, fraction=settings.max_skipped)
        for unit in work.pending(units):
            size, rows = plan[unit]
            facts, bad = encoder.write(out / f"{unit}.safetensors", rows, size)
            about = {"rows": hashes[unit], "skipped": [dataclasses.astuple(sample) for sample in bad]}
            work.finish(unit, facts | about)
            skipped += bad
            bar.update(len(rows))
            check_skipped(skipped, total=total, fraction=settings.max_skipped)
        report = _report(work, plan, len(manifest))
        check_skipped(report.skipped, total=total, fraction=settings.max_skipped)
    write_skipped(out / SKIPPED, report.skipped)
    return report


def _opened(folder: Path, fixed: Mapping[str, Any], *, retry: bool) -> WorkFolder:
    try:
        return WorkFolder(folder, fixed, renewed=["manifest"] if retry else [])
    except ValueError as error:
        error.add_note(
            "A manifest that has changed is taken up by retry (--retry): only shards that it changes are made"
        )
        raise


def _fixed(
    manifest: ImageManifest, encoders: Encoders, settings: EncodingSettings, identity: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the shards; how many may be skipped does not."""
    values = dataclasses.asdict(settings)
    del values["max_skipped"]
    shape = {"channels": encoders.channels, "f": encoders.f, "scaling_factor": encoders.scaling_factor}
    return {"manifest": manifest.sha256} | values | shape | dict(identity)


def _forget_stale(work: WorkFolder, out: Path, hashes: Mapping[str, str], *, verify: bool, retry: bool) -> None:
    """Have those units done again whose shard is lost or of other rows, and remove shards that are none any more."""
    for unit in work.done():
        path, facts = out / f"{unit}.safetensors", work.facts(unit)
        if unit not in hashes:
            path.unlink(missing_ok=True)
            work.forget(unit)
        elif facts and (
            facts.get("rows") != hashes[unit]
            or not _is_there(path, facts, verify=verify)
            or (retry and facts["skipped"])
        ):
            work.forget(unit)


def _is_there(path: Path, facts: Mapping[str, Any], *, verify: bool) -> bool:
    """Whether a shard is as it was written; it may be that there was nothing to write."""
    if facts["samples"] == 0:
        return True
    try:
        if not path.is_file() or read_header(path).sha256 != facts["sha256"]:
            return False
        if verify:
            check_content(path)
    except ValueError:
        return False
    return True


def _report(work: WorkFolder, plan: Mapping[str, tuple[Size, list[int]]], images: int) -> EncodingReport:
    done = [facts for unit in plan if (facts := work.facts(unit)) is not None]
    return EncodingReport(
        samples=sum(facts["samples"] for facts in done),
        captions=sum(facts["captions"] for facts in done),
        shards=sum(facts["samples"] > 0 for facts in done),
        skipped=[Skipped(*sample) for facts in done for sample in facts["skipped"]],
        left_out=images - sum(len(rows) for _, rows in plan.values()),
    )
