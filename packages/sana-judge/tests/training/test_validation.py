import pytest

from sana_judge.training import JudgeValidation, MarginObjective


def test_it_measures_each_pictures_own_prompt(margin_model, batch):
    numbers = JudgeValidation(lambda step: batch, steps=2)(margin_model)
    own = batch | {"labels": batch["labels"][:, :1], "tokens": batch["tokens"][:, :1], "groups": batch["groups"][:, :1]}
    assert numbers["val/loss"] == pytest.approx(MarginObjective()(margin_model, own, None).item(), rel=1e-5)
    assert 0 <= numbers["val/auc"] <= 1
