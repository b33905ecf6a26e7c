import dataclasses
import json
import math
import multiprocessing
import random
import time

import pytest
import torch

from sana_train.data import (
    AspectRatioBuckets,
    CaptionSampler,
    EncodingSettings,
    LatentShards,
    TooManyBadSamplesError,
    encode_dataset,
    index_folder,
)
from sana_train.data.image_reading import fitted, read_image
from sana_train.data.shard_files import OpenShard, check_content, read_header

BUCKETS = AspectRatioBuckets(64, multiple=16)


@pytest.fixture
def encode(manifest, encoders, tmp_path):
    def run(
        *,
        manifest=manifest,
        encoders=encoders,
        out="out",
        identity=None,
        part=(0, 1),
        verify=False,
        retry=False,
        **changes,
    ):
        settings = EncodingSettings(**{"buckets": BUCKETS, "shard_size": 4, "batch_size": 3} | changes)
        return encode_dataset(
            manifest,
            tmp_path / out,
            encoders,
            settings,
            identity=identity or {"model": "tiny"},
            part=part,
            verify=verify,
            retry=retry,
            progress=False,
        )

    return run


@pytest.fixture
def rescored(manifest):
    """The manifest with scores: caption k of image n has 20 + n + 10 k."""

    def score(row):
        record = manifest[row]
        return dataclasses.replace(record, scores=tuple(20.0 + row + 10 * k for k in range(len(record.captions))))

    return manifest.with_records(map(score, range(len(manifest))))


def contents(folder):
    """The hash of each shard, which its content must agree with."""
    paths = sorted(folder.glob("*.safetensors"))
    for path in paths:
        check_content(path)
    return {path.name: read_header(path).sha256 for path in paths}


def test_shards_hold_what_the_encoders_made_of_the_manifest(encode, manifest, encoders, tmp_path):
    report = encode()
    assert (report.samples, report.captions, report.skipped) == (20, 36, [])
    shards = LatentShards(tmp_path / "out", batch_size=2, captions=CaptionSampler(tau=math.inf))
    assert shards.samples == 20
    assert shards.sizes == [(6, 10), (8, 8)]
    records = {record.key: record for record in map(manifest.__getitem__, range(20))}
    for step in range(shards.steps_per_epoch):
        batch = shards(step)
        for slot, key in enumerate(batch["key"]):
            image = fitted(
                read_image(manifest.bytes_of(records[key])), *(8 * side for side in batch["latents"].shape[2:])
            )
            assert torch.equal(batch["latents"][slot], 0.5 * encoders.images(image[None])[0].float())
            assert batch["caption"][slot, 0, 0].item() in [len(text) for text in records[key].captions]


def test_encoding_twice_gives_the_same_bytes_and_does_nothing_the_second_time(encode, encoders, tmp_path):
    first = encode()
    encode(out="again")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")
    assert len(contents(tmp_path / "out")) == first.shards == 6
    assert encode(encoders=dataclasses.replace(encoders, images=None, captions=None)) == first


def test_processes_without_locks_divide_the_shards(encode, tmp_path):
    encode()
    halves = [encode(out="parts", part=(part, 2)) for part in (0, 1)]
    assert halves[0].samples < halves[1].samples == 20
    assert contents(tmp_path / "parts") == contents(tmp_path / "out")
    with pytest.raises(ValueError, match="part is 2 of 2; it must be one of 0 to 1"):
        encode(part=(2, 2))


@pytest.fixture
def one_thread():
    """Threads of the parent do not survive a fork, and a child that waits for them never ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_kills_and_company_leave_no_trace(encode, encoders, tmp_path, one_thread):
    def slowly(pixels):
        time.sleep(0.05)
        return encoders.images(pixels)

    slow, context = dataclasses.replace(encoders, images=slowly), multiprocessing.get_context("fork")

    def start():
        process = context.Process(target=encode, kwargs={"encoders": slow})
        process.start()
        return process

    draw = random.Random(0)
    for shards in (1, 3):  # killed once so many are there, somewhere in the next one
        doomed = start()
        while len(contents(tmp_path / "out")) < shards and doomed.is_alive():
            time.sleep(0.005)
        time.sleep(0.1 * draw.random())
        doomed.kill()
        doomed.join()
    finishers = [start(), start()]
    for process in finishers:
        process.join()
    assert [process.exitcode for process in finishers] == [0, 0]
    assert not list((tmp_path / "out").rglob("*.tmp"))
    encode(out="straight")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_a_shard_that_is_missing_or_changed_is_made_again(encode, tmp_path):
    encode()
    before = contents(tmp_path / "out")
    first, second, third = sorted((tmp_path / "out").glob("*.safetensors"))[:3]
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    flipped = bytearray(third.read_bytes())
    flipped[-1] ^= 1
    third.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"has changed since it was written \(sha256"):
        check_content(third)
    encode()
    assert third.read_bytes() == flipped  # to find this, everything must be read
    encode(verify=True)
    assert contents(tmp_path / "out") == before


def test_a_folder_is_not_mixed_from_two_models_or_manifests(encode, manifest):
    encode()
    with pytest.raises(ValueError, match=r"started otherwise \(model tiny -> other\)"):
        encode(identity={"model": "other"})
    with pytest.raises(ValueError, match=r"started otherwise \(manifest [0-9a-f]{64} -> "):
        encode(manifest=manifest.with_records(map(manifest.__getitem__, range(5))))
    with pytest.raises(ValueError, match=r"started otherwise \(shard_size 4 -> 5\)"):
        encode(shard_size=5)


def test_bad_samples_are_skipped_counted_and_listed(encode, dataset, manifest, image_bytes, tmp_path):
    whole = (dataset / "loose" / "16.png").read_bytes()
    (dataset / "loose" / "16.png").write_bytes(whole[:-40] + bytes(40))
    (dataset / "loose" / "17.png").unlink()
    rows = [manifest[row] for row in range(20)]
    blank = [dataclasses.replace(row, captions=(" ",), scores=(None,), sources=("me",)) for row in rows[-1:]]
    report = encode(manifest=manifest.with_records([*rows[:-1], *blank]), max_skipped=0.15)
    assert report.samples == 17
    reasons = {sample.key: sample.reason for sample in report.skipped}
    assert reasons == {
        rows[-1].key: "no caption",
        "loose/16.png": "image damaged or cut short",
        "loose/17.png": "file missing",
    }
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {line["key"]: line["reason"] for line in lines} == reasons


def test_too_many_bad_samples_stop_the_run_also_when_resumed(encode, dataset, tmp_path):
    for number in (16, 17):
        (dataset / "loose" / f"{number}.png").unlink()
    for _ in range(2):
        with pytest.raises(
            TooManyBadSamplesError, match=r"2 of 20 samples had to be skipped \(2 file missing\)"
        ) as caught:
            encode(max_skipped=0.05)
        assert "--max-skipped" in str(caught.value)
        listed = tmp_path / "out" / "skipped.jsonl"
        assert caught.value.__notes__ == [f"All of them are listed in {listed}"]
        assert len(listed.read_text().splitlines()) == 2
        listed.unlink()
    assert encode(max_skipped=0.1).samples == 18


def test_mended_data_is_taken_up_when_asked_for(encode, dataset, image_bytes):
    whole = (dataset / "loose" / "16.png").read_bytes()
    (dataset / "loose" / "16.png").write_bytes(bytes(len(whole)))
    assert encode(max_skipped=0.1).samples == 19
    (dataset / "loose" / "16.png").write_bytes(whole)
    assert encode(max_skipped=0.1).samples == 19
    assert encode(max_skipped=0.1, retry=True).samples == 20


def test_what_changed_in_a_manifest_is_encoded_again_when_asked_for(encode, encoders, dataset, image_bytes, tmp_path):
    image = dataset / "loose" / "16.png"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    cut = index_folder(dataset, progress=False)[0]
    assert encode(manifest=cut, max_skipped=0.1).samples == 19
    image.write_bytes(whole)
    still = encode(manifest=cut, max_skipped=0.1, retry=True)
    assert [sample.reason for sample in still.skipped] == ["file changed since it was indexed"]
    mended = index_folder(dataset, progress=False)[0]
    with pytest.raises(ValueError, match=r"started otherwise \(manifest ") as caught:
        encode(manifest=mended)
    assert "taken up by retry (--retry)" in caught.value.__notes__[0]
    seen = []
    counting = dataclasses.replace(encoders, images=lambda pixels: seen.append(len(pixels)) or encoders.images(pixels))
    assert encode(manifest=mended, encoders=counting, retry=True).samples == 20
    assert sum(seen) == 4  # only the shard that it is in
    encode(manifest=mended, out="straight")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_shards_of_rows_that_are_gone_are_removed(encode, manifest, tmp_path):
    encode()
    fewer = manifest.with_records(map(manifest.__getitem__, range(9)))
    assert encode(manifest=fewer, retry=True).samples == 9
    encode(manifest=fewer, out="straight")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
    assert encode(manifest=fewer).samples == 9


@pytest.mark.parametrize(
    ("latents", "reason"),
    [
        (lambda pixels: torch.zeros(len(pixels), 4, 8, 8), "latent of wrong shape"),
        (
            lambda pixels: torch.full((len(pixels), 3, pixels.shape[2] // 8, pixels.shape[3] // 8), math.nan),
            "not finite",
        ),
    ],
)
def test_latents_that_cannot_be_trained_on_are_skipped(encode, encoders, latents, reason):
    report = encode(encoders=dataclasses.replace(encoders, images=latents), max_skipped=1.0)
    assert (report.samples, report.shards, len(report.skipped)) == (0, 0, 20)
    assert all(reason in sample.reason for sample in report.skipped)


def test_captions_go_with_their_scores_and_the_best_ones_can_be_kept(encode, rescored, tmp_path):
    assert encode(manifest=rescored).captions == 36
    path = tmp_path / "out" / "64x64-00001.safetensors"
    assert (read_header(path).captions, read_header(path).scored) == (8, True)
    shard = OpenShard(path)
    first = next(row for row in range(20) if rescored[row].key == shard.keys[0])
    assert shard.scores(0) == [20.0 + first, 30.0 + first]
    assert encode(manifest=rescored, out="best", max_captions=1).captions == 20
    best = OpenShard(tmp_path / "best" / "64x64-00001.safetensors")
    assert best.scores(0) == [30.0 + first]


def test_only_images_that_score_well_are_encoded_for_quality_tuning(encode, rescored, manifest):
    wanted = sum((rescored[row].best_score or 0) >= 40.0 for row in range(20))
    report = encode(manifest=rescored, min_score=40.0)
    assert (report.samples, report.skipped) == (wanted, [])
    with pytest.raises(ValueError, match=r"none of the 20 images of .* has a caption that scores 40\.0"):
        encode(out="none", min_score=40.0)


def test_scores_for_some_captions_only_are_refused(encode, rescored, manifest):
    mixed = rescored.with_records([rescored[0], *map(manifest.__getitem__, range(1, 20))])
    with pytest.raises(ValueError, match=r"images of .* have captions without a score, and others have scores"):
        encode(manifest=mixed)


def test_a_few_captions_without_a_score_are_skipped_and_counted(encode, rescored, manifest):
    several = next(row for row in range(20) if len(manifest[row].captions) > 1)
    rows = [rescored[row] if row != several else manifest[row] for row in range(20)]
    report = encode(manifest=manifest.with_records(rows), max_skipped=0.05)
    assert report.samples == 19
    assert [(sample.key, sample.reason) for sample in report.skipped] == [
        (manifest[several].key, "caption without a score")
    ]


def test_an_empty_manifest_is_said(encode, manifest, tmp_path):
    with pytest.raises(ValueError, match=r"the manifest of .* has no images: index a folder that holds some"):
        encode(manifest=manifest.with_records([]))
    assert not (tmp_path / "out").exists()


def test_images_that_would_be_enlarged_too_much_are_left_out_and_not_bad(encode, manifest):
    assert (encode().samples, encode().left_out) == (20, 0)
    report = encode(out="large", max_upscale=1.0)  # 96x48 fills 80x48, and 48x48 does not fill 64x64
    assert (report.samples, report.left_out, report.skipped) == (6, 14, [])
    assert encode(out="larger", max_upscale=2.0).left_out == 0
    with pytest.raises(ValueError, match=r"none of the 20 images .* fills a size of 128 when enlarged 1\.0 times"):
        encode(out="none", buckets=AspectRatioBuckets(128, multiple=16), max_upscale=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_size": 0}, "shard_size is 0; it must be at least 1"),
        ({"max_captions": 0}, "max_captions is 0"),
        ({"max_skipped": 2.0}, "max_skipped is 2.0; it is a fraction"),
        ({"max_upscale": 0.5}, "max_upscale is 0.5; it must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EncodingSettings(buckets=BUCKETS, **changes)
