import json
import shutil

import pytest
import torch
from torch import nn
from transformers import AutoProcessor, LlavaForConditionalGeneration

from sana_judge.scorers.answering_vlm import AnsweringVLM, Float32Head

QUESTIONS = ["this dog", "a red photo this dog yes", "no"]
# float32 rounds to 6e-8; logits are near 1 and pass some thousand roundings on.
SAME = 1e-4


@pytest.fixture(scope="module")
def model(vlm_folder):
    return AnsweringVLM.from_pretrained(vlm_folder, revision=None, device=None, dtype=None)


def test_it_answers_like_transformers_own_forward(model, vlm_folder, pictures):
    llava = LlavaForConditionalGeneration.from_pretrained(vlm_folder)
    processor = AutoProcessor.from_pretrained(vlm_folder, use_fast=False)
    inputs = processor(images=pictures[0], text="USER: <image> this dog ASSISTANT:", return_tensors="pt")
    with torch.no_grad():
        expected = llava(**inputs).logits[:, -1]
    assert inputs["input_ids"][0, 0] == model.tokenizer.bos_token_id
    assert torch.allclose(model.ask(["this dog"], pictures[:1]), expected, atol=SAME)


def test_a_first_token_is_there_once_whoever_writes_it(model, vlm_folder, pictures):
    processor = AutoProcessor.from_pretrained(vlm_folder, use_fast=False)
    processor.chat_template = "[CLS]" + processor.chat_template
    written = AnsweringVLM(LlavaForConditionalGeneration.from_pretrained(vlm_folder), processor)
    expected = model.ask(["this dog"], pictures[:1])
    assert torch.allclose(written.ask(["this dog"], pictures[:1]), expected, atol=SAME)


def test_a_batch_of_several_lengths_answers_like_single_questions(model, pictures):
    alone = torch.cat([model.ask([question], [picture]) for question, picture in zip(QUESTIONS, pictures, strict=True)])
    assert alone.std() > 100 * SAME
    assert torch.allclose(model.ask(QUESTIONS, pictures), alone, atol=SAME)


def test_the_head_is_float32_whatever_the_weights():
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 20_000).bfloat16(), torch.randn(3, 64).bfloat16()
    exact = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
    logits = Float32Head(linear)(x)
    assert logits.dtype == torch.float32
    # Sums of 64 products below 1: a few roundings of float32, where bfloat16 is off by 0.004 for numbers near 1.
    assert (logits - exact).abs().max() < 1e-6


def test_answers_are_single_tokens_in_any_spelling(model):
    words = model.tokenizer.convert_ids_to_tokens
    assert words(model.spellings("yes")) == ["yes", "Yes", "YES"]
    assert words(model.spellings("no")) == ["no", "No"]
    assert words([model.token("Yes")]) == ["Yes"]


def test_an_answer_the_tokenizer_does_not_have_is_refused(model):
    with pytest.raises(ValueError, match="does not know 'perhaps'"):
        model.spellings("perhaps")


def test_no_special_token_of_a_prompt_reaches_the_model(model):
    assert model.clean("a <im<image>age>dog[SEP]") == "a dog"


def test_a_processor_without_a_chat_template_is_refused(vlm_folder, tmp_path):
    folder = shutil.copytree(vlm_folder, tmp_path / "mute")
    for path in folder.glob("chat_template*"):
        path.unlink()
    for path in folder.glob("*.json"):
        fields = json.loads(path.read_text())
        if isinstance(fields, dict) and fields.pop("chat_template", None):
            path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"has no chat template: use an instruction-tuned model"):
        AnsweringVLM.from_pretrained(folder, revision=None, device=None, dtype=None)


def test_a_damaged_processor_is_said(vlm_folder, tmp_path):
    folder = shutil.copytree(vlm_folder, tmp_path / "damaged")
    (folder / "tokenizer.json").write_text("{")
    # transformers 4 tries to rebuild a damaged tokenizer, for which packages are missing.
    with pytest.raises((ValueError, ImportError), match=r"processor in .* (is missing or damaged|needs more packages)"):
        AnsweringVLM.from_pretrained(folder, revision=None, device=None, dtype=None)


def test_a_model_without_images_is_refused(nvila_tiny, tmp_path):
    folder = shutil.copytree(nvila_tiny / "llm", tmp_path / "llm")
    with pytest.raises(ValueError, match="does not hold a vision-language model"):
        AnsweringVLM.from_pretrained(folder, revision=None, device=None, dtype=None)
