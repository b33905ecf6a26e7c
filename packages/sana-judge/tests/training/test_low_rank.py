import sys

import pytest
import torch

from sana_judge.training import MarginObjective, add_low_rank
from sana_judge.training.low_rank import TARGETS, merged_weights


@pytest.fixture
def updated(margin_model):
    """A model whose updates are no longer zero."""
    add_low_rank(margin_model.model, 2)
    generator = torch.Generator().manual_seed(0)
    for name, weight in margin_model.named_parameters():
        if "lora_B" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return margin_model


def test_updates_start_as_nothing(margin_model, batch):
    tensors = [batch[name] for name in ("tiles", "tile_counts", "tokens")]
    before = margin_model(*tensors)
    add_low_rank(margin_model.model, 2)
    assert torch.equal(margin_model(*tensors), before)


def test_only_updates_and_projector_learn(margin_model, batch):
    add_low_rank(margin_model.model, 2)
    MarginObjective()(margin_model, batch, None).backward()
    learning = {name for name, weight in margin_model.named_parameters() if weight.grad is not None}
    layers = margin_model.model.config.language.num_hidden_layers
    assert len([name for name in learning if "lora_" in name]) == 2 * layers * len(TARGETS)
    assert {name for name in learning if "lora_" not in name} == {
        name for name, _ in margin_model.named_parameters() if "mm_projector" in name
    }


def test_merged_weights_are_the_same_function(updated, fresh_judge, nvila_tiny, batch):
    tensors = [batch[name] for name in ("tiles", "tile_counts", "tokens")]
    expected = updated(*tensors)
    other = type(fresh_judge).from_pretrained(nvila_tiny, dtype=torch.float32)
    other.model.load_state_dict(merged_weights(updated.model))
    # One rounding of each weight more.
    torch.testing.assert_close(type(updated)(other)(*tensors), expected, atol=2e-5, rtol=0)
    assert torch.equal(updated(*tensors), expected)


def test_without_updates_the_weights_are_the_models_own(margin_model):
    merged = merged_weights(margin_model.model)
    own = margin_model.model.state_dict()
    assert merged.keys() == own.keys()
    assert all(merged[name] is not None and torch.equal(merged[name], own[name]) for name in own)


def test_a_rank_below_one_is_refused(margin_model):
    with pytest.raises(ValueError, match="rank is 0"):
        add_low_rank(margin_model.model, 0)


def test_without_peft_the_remedy_is_named(margin_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"sana-judge\[train\]"):
        add_low_rank(margin_model.model, 2)
