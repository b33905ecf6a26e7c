import pytest

from sana_judge import VQAScore
from sana_judge.scorers.vqa_score import QUESTION


@pytest.fixture(scope="module")
def scorer(vlm_folder):
    return VQAScore.from_pretrained(vlm_folder)


def test_it_is_the_probability_of_yes_among_all_words(scorer, pictures):
    logits = scorer.model.ask([QUESTION.replace("{prompt}", "a red dog")], pictures[:1])
    expected = logits.softmax(dim=1)[0, scorer.model.tokenizer.convert_tokens_to_ids("Yes")]
    # softmax in float32
    assert scorer("a red dog", pictures[:1]) == pytest.approx([expected.item()], rel=1e-5)


def test_the_question_is_the_papers():
    assert QUESTION == 'Does this figure show "{prompt}"? Please answer yes or no.'


def test_batches_change_nothing(vlm_folder, scorer, pictures):
    prompts = ["dog", "a red dog", ""]
    alone = [scorer(prompt, [picture])[0] for prompt, picture in zip(prompts, pictures, strict=True)]
    # Rounding of float32 through logits, times a probability.
    assert VQAScore.from_pretrained(vlm_folder, batch_size=2)(prompts, pictures) == pytest.approx(alone, rel=1e-3)


def test_no_images_no_scores(scorer):
    assert scorer("dog", []) == []


def test_a_folder_without_weights_says_what_to_fetch(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(FileNotFoundError, match=r"hf download Qwen/Qwen3-VL-2B-Instruct"):
        VQAScore.from_pretrained(tmp_path)
