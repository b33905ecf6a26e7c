import math

import pytest
import torch

from sana_judge.training import Asked, MarginObjective, pairwise_loss
from sana_judge.vila.tiling import cut_tiles


@pytest.fixture
def answered():
    """Margins of six questions; the NaN label is no question, and its margin counts nowhere."""
    margins = torch.tensor([[2.0, -1.0], [0.5, 9.0], [-3.0, 1.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0], [0.0, math.nan], [1.0, 0.3]])
    groups = torch.tensor([[1, 2], [1, 0], [1, 2]])
    return margins, {"labels": labels, "groups": groups}


def cross_entropy(margin, label):
    p = 1 / (1 + math.exp(-margin))
    return -label * math.log(p) - (1 - label) * math.log(1 - p)


def test_each_answer_counts_the_same(answered):
    margins, batch = answered
    expected = [cross_entropy(*pair) for pair in [(2.0, 1), (-1.0, 0), (0.5, 0), (-3.0, 1), (1.0, 0.3)]]
    assert MarginObjective().loss(margins, batch).item() == pytest.approx(sum(expected) / 5, rel=1e-6)


def test_pairs_of_a_group_with_different_labels_are_compared(answered):
    margins, batch = answered
    # Group 1: 2.0 and -3.0 are right, 0.5 is wrong; group 2: 1.0 is more right than -1.0.
    pairs = [math.log1p(math.exp(worse - better)) for better, worse in [(2.0, 0.5), (-3.0, 0.5), (1.0, -1.0)]]
    with_pairs = MarginObjective(pairwise=2.0).loss(margins, batch)
    alone = MarginObjective().loss(margins, batch)
    assert (with_pairs - alone).item() == pytest.approx(2 * sum(pairs) / 3, rel=1e-5)


def test_without_pairs_the_pairwise_loss_is_zero_and_has_gradients():
    margins = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = pairwise_loss(margins, torch.tensor([1.0, 1.0]), torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0
    assert margins.grad.tolist() == [0, 0]


def test_learning_separates_what_it_is_shown(margin_model, batcher, images):
    tiles = [cut_tiles(image.convert("RGB"), margin_model.model.config, max_tiles=1) for image in images[:2]]
    asked = [[Asked("a red dog", 1, "dogs"), Asked("two cats", 0, "cats")], [Asked("a red dog", 0, "dogs")]]
    batch = batcher(["one", "two"], tiles, asked)
    optimizer = torch.optim.Adam(margin_model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        MarginObjective(pairwise=0.5)(margin_model, batch, None).backward()
        optimizer.step()
    margins = margin_model(batch["tiles"], batch["tile_counts"], batch["tokens"])
    assert [margin > 0 for margin in margins[~batch["labels"].isnan()]] == [True, False, False]


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_an_impossible_weight_is_refused(weight):
    with pytest.raises(ValueError, match="pairwise is"):
        MarginObjective(pairwise=weight)
