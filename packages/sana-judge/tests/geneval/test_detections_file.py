import json

import numpy as np
import pytest

from sana_judge.geneval import Detection, read_detections, write_detections

CAT = Detection(name="cat", score=0.1 + 0.2, box=(0.0, 1.5, 20.0, 30.0), color="red")
DOG = Detection(name="dog", score=0.5, box=(0.0, 0.0, 2.0, 2.0))


def test_detections_are_read_as_they_were_written(tmp_path):
    found = {"00000/samples/0000.png": [CAT, DOG], "00000/samples/0001.png": []}
    write_detections(tmp_path / "d.jsonl", found)
    assert read_detections(tmp_path / "d.jsonl") == found


def test_masks_are_left_out(tmp_path):
    masked = Detection(name="dog", score=0.5, box=(0.0, 0.0, 2.0, 2.0), mask=np.ones((2, 2), dtype=bool))
    write_detections(tmp_path / "d.jsonl", {"a.png": [masked]})
    assert read_detections(tmp_path / "d.jsonl")["a.png"][0].mask is None


def test_the_later_line_of_an_image_counts_and_images_that_could_not_be_read_are_passed_over(tmp_path):
    lines = [{"filename": "a.png", "key": "old", "detections": []}, {"filename": "b.png", "error": "damaged"}]
    lines.append({"filename": "a.png", "detections": [{"class": "dog", "score": 0.5, "box": [0, 0, 2, 2]}]})
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_detections(tmp_path / "d.jsonl") == {"a.png": [DOG]}


@pytest.mark.parametrize(
    "entry",
    [
        {"class": "cat", "score": 0.5},
        {"class": "cat", "score": 0.5, "box": [1, 2, 3]},
        {"class": 3, "score": 0.5, "box": [1, 2, 3, 4]},
        {"class": "cat", "score": "high", "box": [1, 2, 3, 4]},
        {"class": "cat", "score": 0.5, "box": [1, 2, 3, 4], "color": 3},
        {"class": "cat", "score": float("nan"), "box": [1, 2, 3, 4]},
        {"class": "cat", "score": 0.5, "box": [1, 2, 3, float("inf")]},
    ],
)
def test_another_kind_of_detection_is_named(tmp_path, entry):
    (tmp_path / "d.jsonl").write_text(json.dumps({"filename": "a.png", "detections": [entry]}))
    with pytest.raises(ValueError, match="record 1 of"):
        read_detections(tmp_path / "d.jsonl")
