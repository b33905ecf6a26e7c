import math

import pytest
from PIL import Image

from sana_judge.judge_call import check_batch_size, finite_scores, pair_prompts, read_at, read_batches


def test_one_prompt_is_that_of_all_images(images):
    assert pair_prompts("a", images) == ["a"] * 3
    assert pair_prompts(["a", "b", ""], images) == ["a", "b", ""]
    assert pair_prompts("a", []) == pair_prompts([], []) == []


def test_prompts_and_images_that_do_not_match_are_refused(images):
    with pytest.raises(ValueError, match="2 prompts for 3 images"):
        pair_prompts(["a", "b"], images)
    with pytest.raises(TypeError, match="images is a single"):
        pair_prompts("a", "0.png")
    with pytest.raises(TypeError, match="3; it must be a string"):
        pair_prompts([3], images[:1])


def test_images_are_opened_when_their_batch_is_due(images, tmp_path):
    batches = read_batches([*images, tmp_path / "nowhere.png"], 2, name="judging", progress=False)
    places, first = next(batches)
    assert (list(places), [image.mode for image in first]) == ([0, 1], ["RGB", "RGB"])
    with pytest.raises(FileNotFoundError):
        next(batches)


def test_the_last_batch_holds_what_is_left(images):
    assert [len(batch) for _, batch in read_batches(images, 2, name="judging", progress=False)] == [2, 1]
    assert list(read_batches([], 2, name="judging", progress=False)) == []


def test_an_image_that_cannot_be_read_is_named():
    with pytest.raises(ValueError, match="pixels") as error:
        read_at([Image.new("RGB", (0, 4))], 0)
    assert error.value.__notes__ == ["It is images[0]."]


def test_scores_that_are_no_numbers_are_named():
    assert finite_scores([0.0, -3.0], range(2)) == [0.0, -3.0]
    with pytest.raises(FloatingPointError, match=r"images\[7\] is -inf"):
        finite_scores([1.0, -math.inf], range(6, 8))


def test_a_batch_has_at_least_one_image():
    assert check_batch_size(1) == 1
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        check_batch_size(0)
