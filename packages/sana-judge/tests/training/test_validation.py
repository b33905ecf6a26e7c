import pytest

from sana_judge.training import JudgeValidation, MarginObjective
from sana_judge.training.measures import auc


def test_it_measures_each_pictures_own_prompt(margin_model, batch):
    numbers = JudgeValidation(lambda step: batch, steps=2)(margin_model)
    own = batch | {"labels": batch["labels"][:, :1], "tokens": batch["tokens"][:, :1], "groups": batch["groups"][:, :1]}
    assert numbers["val/loss"] == pytest.approx(MarginObjective()(margin_model, own, None).item(), rel=1e-5)
    margins = margin_model(own["tiles"], own["tile_counts"], own["tokens"])[:, 0]
    assert numbers["val/auc"] == auc(margins.tolist(), own["labels"][:, 0].tolist())
