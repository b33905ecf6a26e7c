import json

import pytest
from transformers import AutoTokenizer

from sana_judge.vila.prompt import RELEASED_QUESTION, QuestionWriter


@pytest.fixture
def tokenizer(nvila_tiny):
    return AutoTokenizer.from_pretrained(nvila_tiny / "llm")


def decode(tokenizer, question):
    return tokenizer.decode(question.head), tokenizer.decode(question.tail)


def test_a_question_is_the_chat_around_the_image(tokenizer):
    head, tail = decode(tokenizer, QuestionWriter(tokenizer).write("a cat"))
    assert head == "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\n"
    assert tail == f"\n{RELEASED_QUESTION.replace('{prompt}', 'a cat')}<|im_end|>\n<|im_start|>assistant\n"


def test_the_template_that_vila_names_is_the_tokenizers(tokenizer):
    assert QuestionWriter(tokenizer, chat_template="qwen2").write("a") == QuestionWriter(tokenizer).write("a")


def test_tokens_are_those_of_the_whole_text(tokenizer):
    question = QuestionWriter(tokenizer).write("a cat")
    text = "".join(decode(tokenizer, question))
    assert [*question.head, *question.tail] == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_braces_in_a_prompt_are_letters(tokenizer):
    _, tail = decode(tokenizer, QuestionWriter(tokenizer).write("{prompt} {{ 7 * 7 }} {x}"))
    assert "is:{prompt} {{ 7 * 7 }} {x}. Please" in tail


def test_without_a_break_the_text_follows_the_image_at_once(tokenizer):
    writer = QuestionWriter(tokenizer, wording="Is it {prompt}?", break_after_tiles=False)
    assert decode(tokenizer, writer.write("red"))[1].startswith("Is it red?")


def test_an_answer_that_is_not_one_token_is_refused(nvila_tiny, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((nvila_tiny / "llm" / name).read_bytes())
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    fields["model"]["merges"] = [merge for merge in fields["model"]["merges"] if "s" not in merge]
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="splits 'yes' into"):
        QuestionWriter(AutoTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"wording": "Is it good?"}, "must say {prompt}"),
        ({"chat_template": "vicuna_v1"}, "'vicuna_v1'; it must be Jinja or one of"),
        ({"chat_template": "{{ messages[0]['role'] }}"}, "writes 0 images"),
    ],
)
def test_wordings_and_templates_that_cannot_work_are_refused(tokenizer, fields, problem):
    with pytest.raises(ValueError, match=problem):
        QuestionWriter(tokenizer, **fields).write("a cat")


def test_a_broken_template_is_told_at_once_and_says_where_it_is_from(tokenizer):
    with pytest.raises(ValueError, match=r"the chat_template of config\.json is broken"):
        QuestionWriter(tokenizer, chat_template="{% for m in messages %}{{ m['content'] }}")
    tokenizer.chat_template = "{{ raise_exception('no images here') }}"
    with pytest.raises(ValueError, match=r"of the tokenizer in .*llm is broken \(no images here\)"):
        QuestionWriter(tokenizer)


def test_no_template_anywhere_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has a chat_template"):
        QuestionWriter(tokenizer)
