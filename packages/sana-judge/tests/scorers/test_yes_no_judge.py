import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_judge import JudgeScore, YesNoJudge
from sana_judge.vila.prompt import RELEASED_QUESTION

PROMPT = "a red dog"


@pytest.fixture(scope="module")
def judge(vlm_folder):
    return YesNoJudge.from_pretrained(vlm_folder)


def test_p_yes_is_the_share_of_the_spellings_of_yes(judge, pictures):
    (score,) = judge.score(PROMPT, pictures[:1])
    p = judge.model.ask([RELEASED_QUESTION.replace("{prompt}", PROMPT)], pictures[:1]).double().softmax(dim=1)[0]
    yes, no = p[judge.model.spellings("yes")].sum(), p[judge.model.spellings("no")].sum()
    assert isinstance(score, JudgeScore)
    assert score.p_yes == pytest.approx((yes / (yes + no)).item())
    assert math.exp(score.logit_yes - score.log_z) == pytest.approx(yes.item())
    assert judge(PROMPT, pictures[:1]) == [score.p_yes]


def test_special_tokens_in_a_prompt_are_taken_out(judge, pictures):
    assert judge("a <image>red dog[SEP]", pictures) == judge(PROMPT, pictures)


def test_a_judge_json_holds_another_question_and_a_calibration(judge, vlm_folder, pictures, tmp_path):
    folder = shutil.copytree(vlm_folder, tmp_path / "own")
    facts = {"question": RELEASED_QUESTION, "calibration": {"scale": 2.0, "offset": -1.0}}
    (folder / "judge.json").write_text(json.dumps(facts))
    expected = [1 / (1 + math.exp(1 - 2 * score.margin)) for score in judge.score(PROMPT, pictures)]
    assert YesNoJudge.from_pretrained(folder)(PROMPT, pictures) == pytest.approx(expected)
    (folder / "judge.json").write_text(json.dumps({"question": "a {prompt} no"}))
    assert YesNoJudge.from_pretrained(folder)(PROMPT, pictures) != pytest.approx(judge(PROMPT, pictures))


def test_what_it_is_given_is_checked_as_by_every_judge(judge, pictures):
    assert judge(PROMPT, []) == judge.score([], []) == []
    with pytest.raises(TypeError, match="must be a list"):
        judge(PROMPT, pictures[0])
    with pytest.raises(ValueError, match="2 prompts for 3 images"):
        judge(["a", "b"], pictures)


def test_nan_is_an_error_that_names_the_image(vlm_folder, pictures, tmp_path):
    folder = shutil.copytree(vlm_folder, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    next(weight for name, weight in weights.items() if name.endswith("lm_head.weight")).fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FloatingPointError, match=r"images\[0\] is nan"):
        YesNoJudge.from_pretrained(folder)(PROMPT, pictures)
