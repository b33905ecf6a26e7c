import json
import os
import subprocess
import sys
import textwrap

import pytest
from PIL import Image

from sana_judge import geneval
from sana_judge.geneval import Detection, Mask2FormerDetector, read_detections, read_results, score_detections

BOX = (1.0, 2.0, 8.0, 9.0)


class Cats:
    """Finds `counts` cats in the image of that number, its red channel; after `fail_at` calls it is interrupted."""

    def __init__(self, counts=(1, 0, 1, 1, 2, 3), *, fail_at=None, revision="v1"):
        self.counts = counts
        self.calls: list[list[int]] = []
        self.fail_at = fail_at
        self.revision = revision

    def __call__(self, images):
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        numbers = [image.getpixel((0, 0))[0] for image in images]
        self.calls.append(numbers)
        return [[Detection(name="cat", score=0.95 - i / 100, box=BOX) for i in range(self.counts[n])] for n in numbers]


def red_or_blue(image, detections):
    return ["red" if image.getpixel((0, 0))[0] == 2 else "blue" for _ in detections]


def score(folder, detector=None, **options):
    return geneval.score_directory(folder, detector or Cats(), **{"colors": red_or_blue, "progress": False} | options)


def test_a_directory_is_scored_by_the_rules(folder):
    table = score(folder)
    assert table.tasks == {"single_object": 0.5, "colors": 0.5, "counting": 0.5}
    assert (table.overall, table.images, table.prompts) == (0.5, 0.5, 1.0)
    results = read_results(folder / "results.jsonl")
    assert [result.reason for result in results] == [
        *("", "expected cat>=1, found 0", "", "expected red cat>=1, found 0 red; and 1 blue"),
        *("", "expected cat<3, found 3"),
    ]
    assert results[0].filename == str(folder / "00000" / "samples" / "00000.png")
    assert results[0].details == {"cat": [[*BOX, 0.95]]}
    assert json.loads((folder / "table.json").read_text())["overall"] == 0.5


def test_results_go_where_they_are_asked_to(folder, tmp_path):
    score(folder, out=tmp_path / "new" / "out")
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [
        *("detections.jsonl", "results.jsonl", "table.json"),
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["00000", "00001", "00002"]


def test_a_stopped_run_goes_on_and_ends_in_the_same_files(folder, tmp_path):
    first, second = Cats(fail_at=2), Cats()
    with pytest.raises(KeyboardInterrupt):
        score(folder, first, out=tmp_path / "stopped", batch_size=2)
    with (tmp_path / "stopped" / "detections.jsonl").open("a") as file:
        file.write('{"filename": "00002/sam')  # what a kill in the middle of a line leaves
    score(folder, second, out=tmp_path / "stopped", batch_size=2)
    score(folder, out=tmp_path / "whole")
    assert (first.calls, second.calls) == ([[0, 1], [2, 3]], [[4, 5]])
    for name in ("detections.jsonl", "results.jsonl", "table.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_holds_at_least_one_image(folder, batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}; it must be at least 1"):
        score(folder, batch_size=batch_size)


def test_what_is_done_is_not_done_again(folder):
    before, again = score(folder), Cats()
    assert score(folder, again) == before
    assert again.calls == []


def test_only_what_changed_is_done_again(folder, metadata):
    score(folder)
    Image.new("RGB", (16, 12), (4, 0, 0)).save(folder / "00000" / "samples" / "00001.png")
    (folder / "00002" / "metadata.jsonl").write_text(json.dumps(metadata[2] | {"prompt": "two cats"}))
    again = Cats()
    table = score(folder, again)
    assert again.calls == [[4, 4, 5]]
    assert table.tasks["single_object"] == 1.0


@pytest.mark.parametrize("change", [{"threshold": 0.2}, {"colors": lambda image, found: ["red"] * len(found)}])
def test_other_settings_or_colours_are_another_run(folder, change):
    score(folder)
    again = Cats()
    score(folder, again, **change)
    assert sum(map(len, again.calls)) == 6


def test_other_weights_are_another_run(folder):
    score(folder)
    again = Cats(revision="v2")
    score(folder, again)
    assert sum(map(len, again.calls)) == 6


def test_images_that_cannot_be_read_are_wrong_and_listed(folder):
    samples = folder / "00000" / "samples"
    (samples / "00000.png").write_bytes((samples / "00000.png").read_bytes()[:40])
    (samples / "00002.png").write_text("no image")
    with pytest.warns(UserWarning, match=r"2 images cannot be read and count as wrong: .*00000\.png, .*00002\.png"):
        table = score(folder)
    assert table.tasks["single_object"] == 0.0
    results = [result for result in read_results(folder / "results.jsonl") if "unreadable" in result.reason]
    assert [result.correct for result in results] == [False, False]
    assert len(json.loads((folder / "table.json").read_text())["unreadable"]) == 2


def test_a_repaired_image_is_scored(folder):
    broken = folder / "00000" / "samples" / "00000.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    with pytest.warns(UserWarning, match="1 images cannot be read"):
        score(folder)
    broken.write_bytes(whole)
    assert score(folder).tasks["single_object"] == 0.5


def test_only_the_colours_that_are_asked_for_are_named(folder):
    named = []

    def note(image, detections):
        named.append((image.getpixel((0, 0))[0], len(detections)))
        return ["red"] * len(detections)

    score(folder, Cats((9, 9, 9, 0, 9, 9)), colors=note)
    assert named == [(2, 1)]


def test_a_colour_that_nobody_names_is_an_error(folder):
    with pytest.raises(ValueError, match=r"'a photo of a red cat' \(00001/samples/00000\.png\) asks for the colour"):
        score(folder, colors=None)


def test_a_detector_that_names_colours_needs_nobody_else(folder):
    def red(images):
        return [[Detection(name="cat", score=0.95, box=BOX, color="red")] for _ in images]

    assert score(folder, red, colors=None).tasks["colors"] == 1.0


def test_a_detector_that_forgets_an_image_is_an_error(folder):
    with pytest.raises(ValueError, match="gave 1 lists of detections for 6 images"):
        score(folder, lambda images: [[]])


def test_exclude_is_never_dropped(folder, metadata):
    del (dropped := dict(metadata[2]))["exclude"]
    (folder / "00002" / "metadata.jsonl").write_text(json.dumps(dropped))
    with pytest.warns(UserWarning, match="counting prompts have no `exclude`"):
        assert score(folder).tasks["counting"] == 1.0
    with pytest.warns(UserWarning, match="ask for something else than the metadata given"):
        assert score(folder, metadata=metadata).tasks["counting"] == 0.5


def test_made_detections_give_the_same_table(folder, tmp_path):
    table = score(folder, out=tmp_path / "first")
    made = read_detections(tmp_path / "first" / "detections.jsonl")
    assert score_detections(folder, made, out=tmp_path / "second") == table
    first, second = ((tmp_path / name / "results.jsonl").read_bytes() for name in ("first", "second"))
    assert first == second


def test_made_detections_must_be_of_all_images_and_name_their_colours(folder, tmp_path):
    score(folder, out=tmp_path)
    made = read_detections(tmp_path / "detections.jsonl")
    colourless = {
        name: [Detection(name=d.name, score=d.score, box=d.box) for d in found] for name, found in made.items()
    }
    with pytest.raises(ValueError, match="asks for the colour of a cat, and nobody named it"):
        score_detections(folder, colourless, out=tmp_path)
    del made["00002/samples/00001.png"]
    with pytest.raises(ValueError, match=r"no detections of 00002/samples/00001\.png"):
        score_detections(folder, made, out=tmp_path)


def test_other_thresholds_may_be_lower_than_those_of_the_detections(folder, tmp_path):
    strict = score(folder, threshold=0.99, counting_threshold=0.99, out=tmp_path)
    assert strict.images == 0
    assert (
        score_detections(folder, tmp_path / "detections.jsonl", out=tmp_path, threshold=0.5).tasks["single_object"]
        == score(folder).tasks["single_object"]
    )


def test_prompts_and_tasks_that_are_missing_are_warned_about_and_recorded(folder, metadata):
    more = {"tag": "position", "prompt": "a photo of a dog above a cat", "include": [{"class": "dog", "count": 1}]}
    with pytest.warns(UserWarning, match=r"1 of 4 prompts have no images .* all of two_object, position, color_attr"):
        score(folder, metadata=[*metadata, more])
    facts = json.loads((folder / "table.json").read_text())
    assert facts["prompts_without_images"] == 1
    assert facts["tasks_absent"] == ["two_object", "position", "color_attr"]


def test_detections_of_an_image_that_was_replaced_are_refused(folder, tmp_path):
    table = score(folder, out=tmp_path)
    assert score_detections(folder, tmp_path / "detections.jsonl", out=tmp_path) == table
    Image.new("RGB", (4, 4)).save(folder / "00001" / "samples" / "00001.png")
    with pytest.raises(ValueError, match=r"00001/samples/00001\.png is not the image that the detections are of"):
        score_detections(folder, tmp_path / "detections.jsonl", out=tmp_path)


@pytest.mark.parametrize("rule", ["threshold", "counting_threshold", "max_overlap"])
@pytest.mark.parametrize("bound", [float("nan"), -1.0, 5.0])
def test_bounds_that_make_no_sense_are_refused_before_anything_is_detected(folder, rule, bound):
    detector = Cats()
    with pytest.raises(ValueError, match=f"{rule} is {bound}; it must be from 0 to 1"):
        score(folder, detector, **{rule: bound})
    assert not detector.calls


def test_a_directory_without_images_is_an_error(tmp_path, metadata):
    geneval.save_prompt(tmp_path, 0, metadata[0], [])
    with pytest.warns(UserWarning, match="no images"), pytest.raises(FileNotFoundError, match="holds no images"):
        score(tmp_path)


def test_a_killed_process_leaves_a_run_that_goes_on(folder, tmp_path):
    # SIGKILL while the third batch is looked at; what the first two saw is on the disk.
    program = f"""
        import os, signal
        from sana_judge import geneval
        calls = []
        class Cats:
            revision = "v1"
            def __call__(self, images):
                calls.append(len(images))
                if len(calls) == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                return [[] for _ in images]
        geneval.score_directory({str(folder)!r}, Cats(), colors=lambda i, d: [], out={str(tmp_path / "out")!r},
                                batch_size=2, progress=False)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, env=os.environ, timeout=60)
    assert len(read_detections(tmp_path / "out" / "detections.jsonl")) == 4
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_the_bar_can_be_switched_off(folder, tmp_path, capsys):
    score(folder, out=tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    score(folder, out=tmp_path / "loud", progress=True)
    assert "6/6" in capsys.readouterr().err


def test_the_detector_and_clip_score_a_directory_together(folder, mask2former_folder, clip_folder, tmp_path):
    # 40 x 2 pixels are seen as 1333 x 67.
    for path in folder.rglob("*.png"):
        Image.effect_noise((40, 2), 90).convert("RGB").save(path)
    detector = Mask2FormerDetector.from_pretrained(mask2former_folder, min_score=0.0)
    (found,) = detector([Image.open(folder / "00000" / "samples" / "00000.png")])
    name = max(found, key=lambda seen: seen.score).name
    for number in range(3):
        path = folder / f"{number:05}" / "metadata.jsonl"
        path.write_text(path.read_text().replace('"cat"', json.dumps(name)))
    colors = geneval.CLIPColors.from_pretrained(clip_folder)
    table = geneval.score_directory(folder, detector, colors=colors, threshold=0, counting_threshold=0, progress=False)
    assert table.tasks["single_object"] > 0
    colored = [seen.color for found in read_detections(folder / "detections.jsonl").values() for seen in found]
    assert set(colored) - {None} <= set(geneval.COLORS)
    assert any(colored)
