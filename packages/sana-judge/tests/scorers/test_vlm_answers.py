import pytest
import torch

from sana_judge.scorers.vlm_answers import VLMAnswers
from sana_judge.soft_tifa import Atom, AtomicPrompt, SoftTIFA

ASKED = [("a b c", ("Yes", "yes", " Yes", "yes")), ("a", ("no",)), ("b a", ("dog", "unheard of"))]


@pytest.fixture(scope="module")
def answers(vlm_folder):
    return VLMAnswers.from_pretrained(vlm_folder, dtype=torch.float32, batch_size=2)


def test_a_probability_is_the_sum_over_distinct_tokens(answers, pictures):
    found = answers(pictures[0], ASKED)
    for (question, _), words, probability in zip(ASKED, (("Yes", "yes"), ("no",), ("dog",)), found, strict=True):
        share = answers.model.ask([question], [pictures[0]])[0].double().softmax(0)
        expected = sum(share[answers.model.token(word)].item() for word in words)
        assert probability == pytest.approx(expected, rel=1e-4)  # alone and padded in a batch, float32


def test_no_questions_are_no_answers(answers, pictures):
    assert answers(pictures[0], []) == []


def test_an_answer_that_is_no_token_is_refused(answers, pictures):
    with pytest.raises(ValueError, match=r"none of \['unheard of'\] is one token"):
        answers(pictures[0], [("a", ("unheard of",))])


def test_soft_tifa_takes_it_as_its_judge(answers, pictures):
    prompt = AtomicPrompt(prompt="a dog", atoms=(Atom(question="a dog", answer="Yes"),), atom_count=1)
    first, second = SoftTIFA([prompt], answers)("a dog", pictures[:2])
    assert 0 < first < 1
    assert first != second
