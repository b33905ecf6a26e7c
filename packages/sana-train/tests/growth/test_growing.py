import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sana_train import grow_depth
from sana_train.growth import IDENTITIES, INITS, model_hash

INPUTS = (torch.randn(2, 4, 2, 2), torch.tensor([10.0, 700.0]), torch.randn(2, 5, 6), torch.ones(2, 5))


@pytest.mark.parametrize("init", IDENTITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_growing_keeps_the_function_to_the_bit(make_model, init, dtype):
    model = make_model(3).to(dtype)
    before = model(*INPUTS)
    grown, plan = grow_depth(model, 7, drop_last=0, init=init, progress=False)
    assert grown is model
    assert torch.equal(grown(*INPUTS), before)
    assert plan.change == {"float32": 0.0, "bfloat16": 0.0}


@pytest.mark.parametrize("init", INITS)
def test_blocks_and_configuration_agree_on_the_depth(make_model, init):
    model, plan = grow_depth(make_model(4), 9, init=init, progress=False)
    assert len(model.blocks) == model.config.num_layers == len(plan.sources) == 9


def test_preserved_blocks_are_the_same_modules(make_model):
    model = make_model(4)
    before = list(model.blocks)
    _, plan = grow_depth(model, 9, init="interleaved", progress=False)
    assert [model.blocks[place] for place in plan.staying] == before[:2]


def test_copies_are_equal_and_share_nothing(make_model):
    model, _ = grow_depth(make_model(3), 6, drop_last=0, init="cyclic", progress=False)
    first, copied = model.blocks[1], model.blocks[4]
    assert torch.equal(first.out.weight, copied.out.weight)
    assert first.out.weight.data_ptr() != copied.out.weight.data_ptr()


def test_fresh_blocks_differ_by_place_and_by_seed_alone(make_model):
    one, _ = grow_depth(make_model(3), 6, progress=False)
    again, _ = grow_depth(make_model(3), 6, progress=False)
    other, _ = grow_depth(make_model(3), 6, seed=1, progress=False)
    assert torch.equal(one.blocks[4].into.weight, again.blocks[4].into.weight)
    assert not torch.equal(one.blocks[4].into.weight, one.blocks[5].into.weight)
    assert not torch.equal(one.blocks[4].into.weight, other.blocks[4].into.weight)


def test_dropping_blocks_changes_the_output_and_says_by_how_much(make_model, caplog):
    caplog.set_level(logging.INFO)
    model = make_model(4)
    before = model(*INPUTS)
    _, plan = grow_depth(model, 6, drop_last=2, progress=False)
    assert not torch.equal(model(*INPUTS), before)
    assert plan.change["float32"] > 0
    assert "max |dy|" in caplog.text


def test_a_block_that_does_not_become_the_identity_is_refused(forgetful_model):
    before, config = list(forgetful_model.blocks), forgetful_model.config
    with pytest.raises(ValueError, match=r"zero_residuals\(\) of Block leaves"):
        grow_depth(forgetful_model, 5, drop_last=0, progress=False)
    assert list(forgetful_model.blocks) == before
    assert forgetful_model.config == config


def test_the_proof_can_be_switched_off(forgetful_model):
    _, plan = grow_depth(forgetful_model, 5, drop_last=0, check=False, progress=False)
    assert plan.change is None


def test_the_proof_leaves_weights_and_modes_as_they_were(make_model):
    model = make_model(3)
    model.blocks[1].eval()
    staying = [parameter.detach().clone() for parameter in model.blocks[:2].parameters()]
    grow_depth(model, 6, drop_last=1, progress=False)
    assert all(map(torch.equal, staying, model.blocks[:2].parameters()))
    assert model.training
    assert not model.blocks[1].training


def test_a_model_of_any_signature_is_proved_with_a_run_of_its_own(make_model):
    model = nn.Module()
    model.blocks, model.config = make_model(3).blocks, SimpleNamespace(num_layers=3)
    x = torch.randn(2, 3, 4)

    def run(model: nn.Module, dtype: torch.dtype) -> torch.Tensor:
        return nn.Sequential(*model.blocks)(x.to(dtype))

    _, plan = grow_depth(model, 5, drop_last=0, run=run, progress=False)
    assert plan.change == {"float32": 0.0, "bfloat16": 0.0}
    assert model.config.num_layers == 5


def test_growing_needs_no_weights(make_model):
    model, plan = grow_depth(make_model(3).to("meta"), 6, progress=False)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert plan.change is None


@pytest.mark.parametrize(("depth", "drop_last"), [(3, 0), (2, 0), (6, 3)])
def test_a_bad_target_leaves_the_model_alone(make_model, depth, drop_last):
    model = make_model(3)
    before = model_hash(model)
    with pytest.raises(ValueError, match="the model has 3 blocks"):
        grow_depth(model, depth, drop_last=drop_last, progress=False)
    assert model_hash(model) == before


def test_a_model_without_blocks_names_its_lists():
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(1, 1)])
    with pytest.raises(ValueError, match=r"has no nn\.ModuleList 'blocks'; it has layers"):
        grow_depth(model, 3)


def test_an_empty_list_of_blocks_is_refused():
    model = nn.Module()
    model.blocks = nn.ModuleList()
    with pytest.raises(ValueError, match="blocks is empty"):
        grow_depth(model, 3)


def test_blocks_without_the_methods_of_growth_are_refused():
    model = nn.Module()
    model.blocks, model.config = nn.ModuleList([nn.Linear(1, 1)]), {"num_layers": 1}
    with pytest.raises(ValueError, match="a Linear has no zero_residuals"):
        grow_depth(model, 3)


def test_a_configuration_that_miscounts_is_refused(make_model):
    model = make_model(3)
    del model.blocks[2]
    with pytest.raises(ValueError, match="num_layers=3 and blocks holds 2"):
        grow_depth(model, 6)
