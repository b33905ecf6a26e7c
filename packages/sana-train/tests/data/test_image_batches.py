import dataclasses
import math

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from sana_train.data import AspectRatioBuckets, CaptionSampler, ImageBatches, ImageManifest, TooManyBadSamplesError
from sana_train.objective import DividedBatches

ANY = CaptionSampler(tau=math.inf)


@pytest.fixture
def make_batches(manifest):
    def make(manifest=manifest, **changes):
        options = {"batch_size": 2, "captions": ANY}
        return ImageBatches(manifest, AspectRatioBuckets(64, multiple=16), **options | changes)

    return make


def facts(batches, steps=range(20)):
    return [(batch["key"], batch["caption_text"]) for batch in map(batches, steps)]


def test_a_batch_holds_images_of_one_bucket_and_one_of_their_captions(make_batches, manifest):
    batches = make_batches()
    assert isinstance(batches, DividedBatches)
    captions = dict(zip(manifest.column("key"), manifest.column("captions"), strict=True))
    shapes = set()
    for step in range(batches.steps_per_epoch):
        batch = batches(step)
        shapes.add(tuple(batch["images"].shape))
        assert batch["images"].abs().max() <= 1
        assert all(text in captions[key] for key, text in zip(batch["key"], batch["caption_text"], strict=True))
    assert shapes == {(2, 3, 64, 64), (2, 3, 48, 80)}  # 48x96 is nearest to 0.6 where the table is this coarse


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one processor
def test_any_worker_count_gives_the_same_batches(make_batches):
    expected = facts(make_batches())
    for workers in (1, 2):
        loader = DataLoader(Steps(make_batches()), batch_size=None, num_workers=workers)
        assert [(batch["key"], batch["caption_text"]) for batch in loader] == expected


class Steps(Dataset):
    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return 20

    def __getitem__(self, step):
        return self.batches(step)


def test_processes_that_share_a_batch_read_its_parts(make_batches):
    whole, divided = make_batches(batch_size=4), make_batches(batch_size=4)
    for step in range(whole.steps_per_epoch):
        batch, parts = whole(step), [divided.part(step, range(start, start + 2)) for start in (0, 2)]
        assert batch["key"] == parts[0]["key"] + parts[1]["key"]
        assert torch.equal(batch["images"], torch.cat([part["images"] for part in parts]))


def test_a_run_goes_on_in_the_middle_of_an_epoch_without_reading_what_came_before(make_batches, manifest):
    expected = facts(make_batches(), range(7, 12))
    resumed = make_batches()
    reads = []
    manifest.bytes_of, read = lambda record: reads.append(record.key) or read(record), manifest.bytes_of
    assert facts(resumed, range(7, 12)) == expected
    assert len(reads) == 2 * 5


def test_captions_change_from_epoch_to_epoch(make_batches):
    batches = make_batches()
    drawn = {}
    for step in range(6 * batches.steps_per_epoch):
        batch = batches(step)
        for key, text in zip(batch["key"], batch["caption_text"], strict=True):
            drawn.setdefault(key, set()).add(text)
    assert max(len(texts) for texts in drawn.values()) == 2


def test_a_bad_image_is_replaced_by_another_of_its_bucket_and_listed(make_batches, manifest, dataset):
    (dataset / "loose" / "16.png").write_bytes(b"no image" * 300)
    batches, again = make_batches(max_skipped=0.05), make_batches(max_skipped=0.05)
    keys = [key for step in range(batches.steps_per_epoch) for key in batches(step)["key"]]
    assert "loose/16.png" not in keys
    assert [sample.key for sample in batches.skipped] == ["loose/16.png"]
    assert facts(again) == facts(batches)


def test_too_many_bad_images_stop_the_run(make_batches, dataset):
    for number in (16, 17):
        (dataset / "loose" / f"{number}.png").unlink()
    batches = make_batches(max_skipped=0.05)
    with pytest.raises(
        TooManyBadSamplesError, match=r"2 of 20 samples had to be skipped \(2 file missing\), and 5.00%"
    ):
        facts(batches)


def test_a_bucket_without_a_readable_image_stops_the_run(make_batches, manifest, monkeypatch):
    wide = [row for row in map(manifest.__getitem__, range(len(manifest))) if row.width > row.height]
    batches = make_batches(max_skipped=0.9)
    reads = []

    def read(record):
        reads.append(record.key)
        return b"no image" if record.width > record.height else ImageManifest.bytes_of(manifest, record)

    monkeypatch.setattr(manifest, "bytes_of", read)
    for _ in range(2):  # whoever goes on after the error meets it again
        with pytest.raises(
            TooManyBadSamplesError, match=f"none of the {len(wide)} images nearest to 48x80 pixels can be"
        ):
            facts(batches)
    assert sorted(sample.key for sample in batches.skipped) == sorted(row.key for row in wide)
    assert all(reads.count(row.key) == 1 for row in wide)


def test_captions_without_scores_are_said_before_training(make_batches):
    with pytest.raises(
        ValueError, match=r"16 images of .* have several captions and some without a score \(first shard"
    ):
        make_batches(captions=CaptionSampler(tau=0.1))


def test_images_without_a_caption_are_left_out_where_captions_are_wanted(make_batches, manifest):
    rows = [manifest[row] for row in range(len(manifest))]
    bare = [dataclasses.replace(row, captions=(), scores=(), sources=()) for row in rows[:4]]
    changed = manifest.with_records([*bare, *rows[4:]])
    without = {row.key for row in bare}
    few = make_batches(changed, max_skipped=0.2)
    assert not {key for batch in facts(few, range(40)) for key in batch[0]} & without
    assert {(sample.key, sample.reason) for sample in few.skipped} == {(key, "no caption") for key in without}
    with pytest.raises(TooManyBadSamplesError, match=r"4 of 20 samples had to be skipped \(4 no caption\)"):
        make_batches(changed, max_skipped=0.1)
    batches = make_batches(changed, captions=None)
    assert {key for step in range(40) for key in batches(step)["key"]} & without
    assert "caption_text" not in batches(0)


def test_a_caption_without_a_word_is_never_drawn(make_batches, manifest):
    rows = [manifest[row] for row in range(len(manifest))]
    two = [dataclasses.replace(row, captions=("", row.key), scores=(None,) * 2, sources=("a",) * 2) for row in rows]
    texts = {text for _, batch in facts(make_batches(manifest.with_records(two)), range(60)) for text in batch}
    assert texts == {row.key for row in rows}
    blank = dataclasses.replace(rows[0], captions=(" ",), scores=(None,), sources=("a",))
    batches = make_batches(manifest.with_records([blank, *rows[1:]]), max_skipped=0.05)
    assert [sample.key for sample in batches.skipped] == [blank.key]


def test_a_few_images_without_scores_are_skipped_and_counted(make_batches, manifest):
    rows = [manifest[row] for row in range(len(manifest))]
    scored = [dataclasses.replace(row, scores=(20.0, 30.0)[: len(row.captions)]) for row in rows]
    unscored = next(row for row in rows if len(row.captions) > 1)
    mixed = manifest.with_records([row if row.key != unscored.key else unscored for row in scored])
    batches = make_batches(mixed, captions=CaptionSampler(tau=0.1), max_skipped=0.05)
    assert [(sample.key, sample.reason) for sample in batches.skipped] == [(unscored.key, "caption without a score")]
    assert not any(unscored.key in keys for keys, _ in facts(batches, range(40)))
    with pytest.raises(ValueError, match=r"1 images of .* have several captions and some without a score"):
        make_batches(mixed, captions=CaptionSampler(tau=0.1), max_skipped=0.01)
