import dataclasses
import multiprocessing
import time

import pytest

from sana_train.data import (
    ImageManifest,
    TooManyBadSamplesError,
    caption_images,
    labelling,
    rewrite_captions,
    score_captions,
)


class SizeCaptioner:
    """Says how large an image is."""

    def __init__(self, seconds=0.0, name="size"):
        self.identity = {"model": name}
        self.seconds = seconds
        self.calls = 0

    def __call__(self, images):
        time.sleep(self.seconds)
        self.calls += 1
        return [f" {image.width} by\n{image.height} " for image in images]


class LengthScorer:
    identity = {"model": "length"}  # noqa: RUF012

    def __call__(self, images, captions):
        return [[float(len(caption)) for caption in several] for several in captions]


class Reverser:
    identity = {"model": "reverser"}  # noqa: RUF012

    def __call__(self, captions, form):
        return [f"{form}: {caption[::-1]}" for caption in captions]


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(labelling, "UNIT", 3)


def records(manifest):
    return [manifest[row] for row in range(len(manifest))]


def test_every_image_gets_one_more_caption(manifest, tmp_path):
    captioned, skipped = caption_images(manifest, SizeCaptioner(), tmp_path / "work", batch_size=2, progress=False)
    assert skipped == []
    for before, after in zip(records(manifest), records(captioned), strict=True):
        assert after.captions == (*before.captions, f"{before.width} by {before.height}")
        assert after.scores == (*before.scores, None)
        assert after.sources == (*before.sources, "size")


def test_captions_of_several_models_gather_and_are_scored_together(manifest, tmp_path):
    once, _ = caption_images(manifest, SizeCaptioner(), tmp_path / "a", progress=False)
    twice, _ = caption_images(once, SizeCaptioner(name="other"), tmp_path / "b", progress=False)
    scored, skipped = score_captions(twice, LengthScorer(), tmp_path / "c", progress=False)
    assert skipped == []
    for record in records(scored):
        assert record.sources[-2:] == ("size", "other")
        assert record.scores == tuple(float(len(caption)) for caption in record.captions)


def test_the_best_caption_is_said_again_in_each_form(manifest, tmp_path):
    scored, _ = score_captions(manifest, LengthScorer(), tmp_path / "a", progress=False)
    rewritten, _ = rewrite_captions(scored, Reverser(), tmp_path / "b", forms=("chinese", "emoji"), progress=False)
    before, after = scored[19], rewritten[19]
    best = max(before.captions, key=len)
    assert after.captions == (*before.captions, f"chinese: {best[::-1]}", f"emoji: {best[::-1]}")
    assert after.scores[-2:] == (float(len(best)),) * 2
    assert after.sources[-2:] == ("reverser/chinese", "reverser/emoji")


def test_a_killed_pass_goes_on_where_it_was(manifest, dataset, tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=caption_images, args=(manifest, SizeCaptioner(0.05), tmp_path / "work"), kwargs={"progress": False}
    )
    process.start()
    while len(list((tmp_path / "work" / "units").glob("*.json"))) < 3:
        time.sleep(0.005)
    process.kill()
    process.join()
    captioner = SizeCaptioner()
    resumed, _ = caption_images(manifest, captioner, tmp_path / "work", progress=False)
    assert captioner.calls <= 4  # of 7 units
    straight, _ = caption_images(manifest, SizeCaptioner(), tmp_path / "other", progress=False)
    assert resumed.sha256 == straight.sha256
    resumed.write(dataset / "captioned.parquet")
    assert ImageManifest.read(dataset / "captioned.parquet").sha256 == straight.sha256


def test_a_pass_is_not_taken_up_with_another_model_or_manifest(manifest, tmp_path):
    caption_images(manifest, SizeCaptioner(), tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"started otherwise \(captioner \{'model': 'size'\} -> \{'model': 'x'\}\)"):
        caption_images(manifest, SizeCaptioner(name="x"), tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"started otherwise \(manifest "):
        caption_images(manifest.with_records(records(manifest)[:5]), SizeCaptioner(), tmp_path, progress=False)


def test_images_that_cannot_be_read_are_skipped_and_keep_their_record(manifest, dataset, tmp_path):
    (dataset / "loose" / "16.png").unlink()
    captioned, skipped = caption_images(manifest, SizeCaptioner(), tmp_path / "a", max_skipped=0.05, progress=False)
    assert [(sample.key, sample.reason) for sample in skipped] == [("loose/16.png", "file missing")]
    bare = [record.key for record in records(captioned) if "size" not in record.sources]
    assert bare == ["loose/16.png"]
    with pytest.raises(TooManyBadSamplesError, match="1 of 20 samples had to be skipped"):
        caption_images(manifest, SizeCaptioner(), tmp_path / "b", progress=False)


def test_an_image_that_cannot_be_scored_loses_its_old_scores(manifest, dataset, tmp_path):
    scored, _ = score_captions(manifest, LengthScorer(), tmp_path / "a", progress=False)
    (dataset / "loose" / "16.png").unlink()
    row = scored.column("key").index("loose/16.png")
    assert scored[row].scores != (None,)
    again, skipped = score_captions(scored, LengthScorer(), tmp_path / "b", max_skipped=0.05, progress=False)
    assert [sample.key for sample in skipped] == ["loose/16.png"]
    assert again[row].scores == (None,)
    assert None not in again[row + 1].scores


def test_a_pass_that_stopped_goes_on_with_a_larger_fraction_or_mended_data(manifest, dataset, tmp_path):
    image = dataset / "loose" / "16.png"
    content = image.read_bytes()
    image.unlink()
    for _ in range(2):
        with pytest.raises(TooManyBadSamplesError) as caught:
            caption_images(manifest, SizeCaptioner(), tmp_path, progress=False)
        assert [sample.key for sample in caught.value.skipped] == ["loose/16.png"]
    captioner = SizeCaptioner()
    assert len(caption_images(manifest, captioner, tmp_path, max_skipped=0.05, progress=False)[1]) == 1
    assert captioner.calls < 7  # of 7 units
    image.write_bytes(content)
    mended, skipped = caption_images(manifest, SizeCaptioner(), tmp_path, progress=False)
    assert skipped == []
    assert all(record.sources[-1] == "size" for record in records(mended))


def test_a_model_that_writes_nothing_is_noticed(manifest, tmp_path):
    class Silent(SizeCaptioner):
        def __call__(self, images):
            return [" "] * len(images)

    with pytest.raises(TooManyBadSamplesError, match="no caption: the model wrote nothing"):
        caption_images(manifest, Silent(), tmp_path, progress=False)


def test_images_without_captions_are_not_scored_and_not_bad(manifest, tmp_path):
    rows = [dataclasses.replace(row, captions=(), scores=(), sources=()) for row in records(manifest)[:18]]
    scored, skipped = score_captions(
        manifest.with_records([*rows, *records(manifest)[18:]]), LengthScorer(), tmp_path, progress=False
    )
    assert skipped == []
    assert scored[0].scores == ()
    assert scored[19].scores[0] == len(scored[19].captions[0])


def test_a_form_that_is_not_known_is_refused(manifest, tmp_path):
    with pytest.raises(ValueError, match="'latin' is not one of chinese, mixed, emoji"):
        rewrite_captions(manifest, Reverser(), tmp_path, forms=("latin",), progress=False)
