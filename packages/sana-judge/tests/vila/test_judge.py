import itertools
import json
import math

import pytest
import torch

from sana_judge import VILAJudge
from sana_judge.vila.answering import answer_pairs
from sana_judge.vila.tiling import cut_tiles

PROMPT = "a photo of a red dog"
PROMPTS = ["a dog", PROMPT, "three blue cats left of a very small house"]
# Sums in another order: float32 rounds to 6e-8, the margins are about 1 and pass some 40 layers of rounding.
SAME = 1e-5


@pytest.fixture(scope="module")
def expected(nvila_tiny):
    return json.loads((nvila_tiny / "expected" / "expected.json").read_text())


@pytest.fixture(scope="module")
def scores(judge, images):
    """One image per call."""
    return [judge.score(PROMPT, [image])[0] for image in images]


def margins(scores):
    return [score.margin for score in scores]


def states_and_logits(judge, images, monkeypatch):
    """What the language model reads and what it answers, for PROMPT about each image."""
    seen, logits = [], []
    read, head = judge.model.read, judge.model.logits
    monkeypatch.setattr(judge.model, "read", lambda sequences: seen.extend(map(len, sequences)) or read(sequences))
    monkeypatch.setattr(judge.model, "logits", lambda states: logits.append(head(states)) or logits[-1])
    for image in images:
        judge.score(PROMPT, [image])
    return seen, torch.cat(logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_logits_and_lengths_are_those_of_vilas_own_code(nvila_tiny, images, expected, dtype, monkeypatch):
    judge = VILAJudge.from_pretrained(nvila_tiny, dtype=dtype)
    lengths, logits = states_and_logits(judge, images, monkeypatch)
    difference = logits - torch.tensor([image["logits"] for image in expected])
    assert lengths == [image["seq"] for image in expected]
    # VILA computed in float16. Our own float16 and float32 differ by 0.0072 at most and 0.0023 in the mean square.
    assert difference.abs().max() < 0.01
    assert difference.square().mean().sqrt() < 0.003


def test_scores_hold_the_logits_of_yes_and_no(scores, expected):
    for score, image in zip(scores, expected, strict=True):
        assert score.logit_yes == pytest.approx(image["yes"], abs=0.01)
        assert score.logit_no == pytest.approx(image["no"], abs=0.01)
        assert score.log_z == pytest.approx(torch.tensor(image["logits"]).logsumexp(0).item(), abs=0.01)
        assert score.p_yes == pytest.approx(1 / (1 + math.exp(score.logit_no - score.logit_yes)))


def test_a_batch_of_several_sizes_answers_like_single_images(judge, images, scores):
    assert margins(judge.score(PROMPT, images)) == pytest.approx(margins(scores), abs=SAME)
    assert [score.tiles for score in judge.score(PROMPT, images)] == [1, 5, 3]


def test_every_image_may_have_its_own_prompt(judge, images):
    alone = [judge.score(prompt, [image])[0] for prompt, image in zip(PROMPTS, images, strict=True)]
    assert margins(judge.score(PROMPTS, images)) == pytest.approx(margins(alone), abs=SAME)


def test_several_prompts_about_one_image_answer_like_one_at_a_time(judge, images, count_calls):
    alone = [judge.score(prompt, images[1:2])[0] for prompt in PROMPTS]
    tiles = count_calls(judge.model.vision_tower)
    assert margins(judge.score_prompts(PROMPTS, images[1])) == pytest.approx(margins(alone), abs=SAME)
    assert tiles == [5]


def test_one_call_sees_all_tiles_of_all_images(judge, images, count_calls):
    tiles, batches = count_calls(judge.model.vision_tower), count_calls(judge.model.mm_projector)
    judge.score(PROMPT, images)
    assert tiles == batches == [9]


def test_batches_hold_no_more_tiles_than_allowed(nvila_tiny, images, count_calls):
    judge = VILAJudge.from_pretrained(nvila_tiny, batch_tiles=6)
    tiles = count_calls(judge.model.vision_tower)
    judge.score(PROMPT, [images[0], images[1], images[2]])
    assert tiles == [6, 3]


def test_calling_it_gives_p_yes(judge, images, scores):
    assert judge(PROMPT, images) == pytest.approx([score.p_yes for score in scores], abs=SAME)


def test_no_images_no_scores(judge):
    assert judge(PROMPT, []) == judge.score(PROMPT, []) == judge.score([], []) == []
    assert judge.score_prompts([], "unread.png") == []


def test_max_tiles_caps_the_tiles_of_a_judge_and_of_a_call(nvila_tiny, images):
    judge = VILAJudge.from_pretrained(nvila_tiny, max_tiles=2)
    assert [score.tiles for score in judge.score(PROMPT, images)] == [1, 1, 3]
    assert [score.tiles for score in judge.score(PROMPT, images, max_tiles=1)] == [1, 1, 1]
    assert [judge.count_tiles(image) for image in images] == [1, 1, 3]
    assert VILAJudge.from_pretrained(nvila_tiny, max_tiles=99).max_tiles == 12


def test_a_judge_of_one_tile_sees_what_a_resized_image_shows(nvila_tiny, judge, images):
    resized = judge.score(PROMPT, [images[1].convert("RGB").resize((112, 112))])
    assert judge.score(PROMPT, images[1:2], max_tiles=1) == resized


def test_an_empty_prompt_is_a_prompt(judge, images):
    assert len(judge("", images[:1])) == 1


def test_special_tokens_in_a_prompt_are_taken_out(judge, images):
    tricks = "a <image>photo<|im_end|> of a <im<image>age>red<vila/video> dog<|im_start|>"
    assert judge.score(tricks, images[:1]) == judge.score(PROMPT, images[:1])


def test_a_prompt_too_long_for_the_model_is_refused(judge, images):
    with pytest.raises(ValueError, match="at most 4096"):
        judge("dog" * 2000, images[:1])
    with pytest.raises(ValueError, match="at most 4096"):
        judge.score_prompts(["dog" * 2000], images[0])


def test_prompts_and_images_must_match(judge, images):
    with pytest.raises(ValueError, match="2 prompts for 3 images"):
        judge(["a", "b"], images)
    with pytest.raises(TypeError, match="must be a list"):
        judge(PROMPT, images[0])
    with pytest.raises(TypeError, match="None; it must be a string"):
        judge([None], images[:1])
    with pytest.raises(TypeError, match="must be several"):
        judge.score_prompts(PROMPT, images[0])


def test_an_image_that_cannot_be_judged_is_named(judge, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.png is not an image") as error:
        judge(PROMPT, [images[0], tmp_path / "broken.png"])
    assert error.value.__notes__ == ["It is images[1]."]


def test_nan_logits_are_an_error(checkpoint, edit_weights, images):
    edit_weights(checkpoint / "llm" / "model.safetensors", lambda weights: weights["model.norm.weight"].fill_(math.nan))
    with pytest.raises(FloatingPointError, match=r"nan.*must be finite"):
        VILAJudge.from_pretrained(checkpoint)(PROMPT, images)


def test_calibration_changes_probabilities_and_not_their_order(checkpoint, edit_json, judge, images):
    edit_json(checkpoint / "judge.json", calibration={"scale": 2.0, "offset": -1.0})
    calibrated = VILAJudge.from_pretrained(checkpoint, dtype=torch.float32)
    plain = judge.score(PROMPT, images)
    assert calibrated(PROMPT, images) == [1 / (1 + math.exp(1 - 2 * score.margin)) for score in plain]


def test_another_question_gives_another_answer(checkpoint, edit_json, judge, images):
    edit_json(checkpoint / "judge.json", question="Is this {prompt}?")
    short = VILAJudge.from_pretrained(checkpoint, dtype=torch.float32)
    assert short(PROMPT, images) != pytest.approx(judge(PROMPT, images), abs=SAME)


def test_the_rule_decides_what_a_call_returns(nvila_tiny, images):
    judge = VILAJudge.from_pretrained(nvila_tiny, rule="released")
    assert judge(PROMPT, images) == [-score.logit_no for score in judge.score(PROMPT, images)]
    with pytest.raises(ValueError, match="'best'; it must be one of"):
        VILAJudge.from_pretrained(nvila_tiny, rule="best")


def test_a_cache_answers_for_the_model(nvila_tiny, images, tmp_path, count_calls):
    judges = [VILAJudge.from_pretrained(nvila_tiny, cache=tmp_path / "scores.db") for _ in range(2)]
    tiles = count_calls(judges[1].model.vision_tower)
    first = judges[0].score(PROMPT, images[:2])
    assert judges[1].score(PROMPT, images[:2]) == first
    assert tiles == []
    judges[1].score(PROMPT, images)
    judges[1].score("another", images[:1])
    judges[1].score(PROMPT, images[1:2], max_tiles=1)
    assert tiles == [3, 1, 1]


def test_a_cache_tells_judges_apart(checkpoint, edit_weights, images, tmp_path):
    before = VILAJudge.from_pretrained(checkpoint, cache=tmp_path / "scores.db")(PROMPT, images)
    edit_weights(checkpoint / "mm_projector" / "model.safetensors", lambda weights: weights["layers.7.bias"].add_(1))
    assert VILAJudge.from_pretrained(checkpoint, cache=tmp_path / "scores.db")(PROMPT, images) != before


def test_a_cache_needs_a_name_for_the_weights(judge):
    with pytest.raises(ValueError, match="needs a revision"):
        VILAJudge(judge.model, None, cache=object())


@pytest.mark.parametrize("name", ["max_tiles", "batch_tiles"])
def test_counts_of_tiles_start_at_one(nvila_tiny, name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        VILAJudge.from_pretrained(nvila_tiny, **{name: 0})


def test_released_weights_come_with_a_notice(checkpoint, tmp_path):
    released = checkpoint.rename(tmp_path / "NVILA-Lite-2B-Verifier")
    with pytest.warns(UserWarning, match="not for commercial use"):
        VILAJudge.from_pretrained(released)


def test_answers_do_not_depend_on_how_images_are_batched(judge, images):
    orders = [judge.score(PROMPT, [images[i] for i in order]) for order in itertools.permutations(range(3))]
    assert all(sorted(margins(order)) == pytest.approx(sorted(margins(orders[0])), abs=SAME) for order in orders)


def test_answers_follow_the_pixels(judge, images):
    tiles = [cut_tiles(image.convert("RGB"), judge.model.config, max_tiles=12) for image in images]
    answers = answer_pairs(judge.model, judge.questions, [PROMPT] * 2, [tiles[1], tiles[1].flip(-1)])
    assert abs(answers[0].margin - answers[1].margin) > 100 * SAME
