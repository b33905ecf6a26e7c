import pytest
import torch

from sana_judge.training import Asked
from sana_judge.training.questions import PADDING, PICTURE


def test_a_sequence_is_the_question_around_the_pictures_vectors(judge, batcher):
    question, newline = judge.questions.write("a red dog"), judge.questions.newline
    vectors = [PICTURE] * judge.model.config.tile_tokens
    expected = [*question.head, *vectors, *newline, *newline, *vectors, *newline, *question.tail]
    assert batcher.tokens("a red dog", 2) == expected


def test_what_is_missing_is_filled(batch):
    assert batch["tiles"].shape[:2] == (3, 5)
    assert batch["tile_counts"].tolist() == [1, 5, 3]
    assert batch["labels"].isnan().tolist() == [[False, False, True], [False, True, True], [False] * 3]
    assert torch.equal((batch["tokens"] != PADDING).any(-1), ~batch["labels"].isnan())
    assert (batch["tokens"][2, 0] == PICTURE).sum() == 3 * (batch["tokens"][0, 0] == PICTURE).sum()


def test_groups_are_equal_where_their_names_are(batch):
    groups = batch["groups"]
    assert groups[0, 0] == groups[1, 0]
    assert len(set(groups[~batch["labels"].isnan()].tolist())) == 5


@pytest.mark.parametrize("label", [-0.1, 1.5, float("nan")])
def test_a_label_is_from_zero_to_one(label):
    with pytest.raises(ValueError, match="from 0 to 1"):
        Asked("a dog", label, "dogs")
