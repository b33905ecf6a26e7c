"""Adapters in training: the gradients and the files of diffusers with PEFT, beside weights that stay as they are."""

import copy
import json
from functools import partial

import pytest
import torch
from diffusers import SanaPipeline
from peft import LoraConfig
from safetensors import safe_open
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from sana_dit import (
    LORA_TARGETS,
    add_lora,
    fuse_lora,
    load_lora,
    quantize_linears,
    save_lora,
    unfuse_lora,
    unload_lora,
)
from sana_dit.lora_training import FILE


@pytest.fixture
def theirs(make_diffusers):
    return make_diffusers(qk_norm="rms_norm_across_heads")


@pytest.fixture
def model(theirs, ours):
    return ours(theirs)  # before adapters rename the weights


@pytest.fixture
def loss(make_inputs):
    """Whose gradient at each output differs."""
    target = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    return lambda model: (model(**make_inputs()) - target).square().mean()


def learned(lora):
    """The adapter with factors that none are zero, as training leaves them."""
    generator = torch.Generator().manual_seed(3)
    for parameter in lora.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return lora


def gradients(lora, loss):
    lora.zero_grad()
    loss(lora).backward()
    return torch.cat([parameter.grad.flatten() for parameter in lora.parameters()])


def test_a_fresh_adapter_changes_nothing_and_alone_has_gradients(model, loss):
    before, expected = {name: weight.clone() for name, weight in model.state_dict().items()}, loss(model)
    lora = add_lora(model, rank=4)
    assert torch.equal(loss(model), expected)
    loss(model).backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in trained} == {id(parameter) for parameter in lora.parameters()}
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())
    assert all(one.up.grad.any() for one in lora.factors.values())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_factors_start_as_those_of_peft(model, theirs):
    theirs.add_adapter(LoraConfig(r=8, target_modules=list(LORA_TARGETS)))
    shapes = {name: one.shape for name, one in theirs.named_parameters() if "lora_" in name}
    lora = add_lora(model, rank=8)
    assert len(shapes) == len(list(lora.parameters())) == 2 * 2 * 8  # factors, blocks, layers
    for one, (a, b) in zip(lora.factors.values(), zip(*[iter(shapes.values())] * 2, strict=True), strict=True):
        assert (one.down.shape, one.up.shape) == (a, b)
        assert not one.up.any()
        bound = 1 / one.down.shape[1] ** 0.5
        # Of 8 x 128 uniform values the largest is within 1% of the bound but for a chance of 0.99^1024, 3e-5.
        assert 0.99 * bound < one.down.abs().max() <= bound


def test_a_seed_names_the_first_values(model):
    twin, other = copy.deepcopy(model), copy.deepcopy(model)
    first, again, else_ = (add_lora(m, rank=2, seed=seed) for m, seed in ((model, 1), (twin, 1), (other, 2)))
    for a, b, c in zip(first.factors.values(), again.factors.values(), else_.factors.values(), strict=True):
        assert torch.equal(a.down, b.down)
        assert not torch.equal(a.down, c.down)


def test_gradients_are_those_of_diffusers_with_peft(model, theirs, loss, make_inputs, call_diffusers, tmp_path):
    lora = learned(add_lora(model, rank=4, alpha=6))
    save_lora(model, tmp_path)
    SanaPipeline.load_lora_into_transformer(
        *_read(tmp_path)[:1], transformer=theirs, adapter_name="default", metadata=_read(tmp_path)[1]
    )
    theirs.requires_grad_(False)
    found = {name: one for name, one in theirs.named_parameters() if "lora_" in name}
    for one in found.values():
        one.requires_grad_()
    loss(lambda **inputs: call_diffusers(theirs, inputs)).backward()
    expected = torch.cat([one.grad.flatten() for one in found.values()])
    # float32 has 24 bits; forward and backward pass some 40 layers.
    assert (gradients(lora, loss) - expected).norm() <= 1e-5 * expected.norm()


def _read(folder):
    return SanaPipeline.lora_state_dict(folder, return_lora_metadata=True, use_safetensors=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_trained_is_what_is_loaded(model, loss, tmp_path, dtype):
    model.to(dtype)
    plain = loss(model)
    lora = learned(add_lora(model, rank=4, alpha=6, name="zog"))
    assert {parameter.dtype for parameter in lora.parameters()} == {torch.float32}
    trained = loss(model)
    save_lora(model, tmp_path, name="zog")
    unload_lora(model, "zog")
    assert torch.equal(loss(model), plain)
    load_lora(model, tmp_path)
    assert torch.equal(loss(model), trained)
    assert not torch.equal(trained, plain)


def test_a_file_says_what_peft_has_to_know(model, tmp_path):
    add_lora(model, rank=4, alpha=6, targets=["attn1.to_q", "proj_out"])
    save_lora(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    with safe_open(tmp_path / FILE, framework="pt") as file:
        names = {f"transformer.transformer_blocks.{i}.attn1.to_q" for i in (0, 1)} | {"transformer.proj_out"}
        assert set(file.keys()) == {f"{name}.lora_{part}.weight" for name in names for part in "AB"}
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (settings["transformer.r"], settings["transformer.lora_alpha"]) == (4, 6)
    config = LoraConfig(**{name.removeprefix("transformer."): value for name, value in settings.items()})
    assert config.target_modules == {name.removeprefix("transformer.") for name in names}


@pytest.mark.parametrize("patch_size", [1, 2])
def test_convolutions_are_written_as_diffusers_has_them(
    make_diffusers, ours, loss, call_diffusers, tmp_path, patch_size
):
    theirs = make_diffusers(patch_size=patch_size)
    model = ours(theirs)
    plain = loss(model)
    learned(add_lora(model, rank=2, alpha=3, targets=["conv_inverted", "conv_point", "patch_embed.proj"]))
    save_lora(model, tmp_path)
    with safe_open(tmp_path / FILE, framework="pt") as file:
        shapes = {part: file.get_slice(f"transformer.patch_embed.proj.lora_{part}.weight").get_shape() for part in "AB"}
    assert shapes == {"A": [2, 4, patch_size, patch_size], "B": [128, 2, 1, 1]}
    expected = loss(model)
    theirs.load_lora_adapter(tmp_path, prefix="transformer", weight_name=FILE)
    # float32 has 24 bits, and the numbers pass some 20 layers.
    assert loss(lambda **inputs: call_diffusers(theirs, inputs)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert plain.item() != pytest.approx(expected.item(), rel=1e-3)
    unload_lora(model)
    load_lora(model, tmp_path)
    assert torch.equal(loss(model), expected)


def test_checkpointed_blocks_have_the_same_gradients(model, loss):
    lora = learned(add_lora(model, rank=4))
    expected = gradients(lora, loss)
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    assert torch.equal(gradients(lora, loss), expected)


def test_bf16_weights_train_factors_in_fp32(model, loss):
    exact, rounded = model, copy.deepcopy(model).bfloat16()
    expected, found = (gradients(learned(add_lora(m, rank=4)), loss) for m in (exact, rounded))
    assert found.dtype == torch.float32
    # bf16 has 8 bits, and errors of some 40 roundings add up like a random walk: sqrt(40) / 2^8.
    assert (found - expected).norm() <= 0.025 * expected.norm()


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        ("nf4", 1e-5),  # float32, as above: what is computed are products with the weights that 4 bits stand for
        ("int8", 0.1),  # inputs are rounded to 8 bits in each of some 40 layers: sqrt(40) * 2 / 127
    ],
)
def test_factors_are_trained_beside_quantised_weights(model, loss, kind, tolerance):
    pytest.importorskip("bitsandbytes")
    quantize_linears(model.blocks, kind, device="cpu")
    found = gradients(learned(add_lora(model, rank=4)), loss)
    assert not any(p.requires_grad for p in model.parameters() if not p.is_floating_point())
    unload_lora(model)
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if not layer._parameters.get("weight", torch.zeros(1)).is_floating_point():
                setattr(parent, name, dequantised(layer))
    expected = gradients(learned(add_lora(model, rank=4)), loss)
    assert (found - expected).norm() <= tolerance * expected.norm()


def dequantised(layer):
    """A plain layer with the weights that a quantised one multiplies with: its answers to the unit vectors."""
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    bias = 0 if layer.bias is None else layer.bias.detach()
    plain.weight.data = (layer(torch.eye(layer.in_features)).detach() - bias).mT.contiguous()
    if layer.bias is not None:
        plain.bias.data = bias
    return plain


def test_a_loaded_adapter_stays_at_work_beside_one_in_training(model, loss, tmp_path):
    learned(add_lora(model, rank=2, name="style"))
    with_style = loss(model)
    save_lora(model, tmp_path, name="style")
    unload_lora(model)
    load_lora(model, tmp_path, name="style")
    lora = learned(add_lora(model, rank=3, targets=["to_q"]))
    both = loss(model)
    assert model.adapters == {"style": 1.0, "default": 1.0}
    load_lora(model, tmp_path, name="style", scale=0.0)  # loading leaves factors in training alone
    assert gradients(lora, loss).any()
    unload_lora(model, "style")
    assert not torch.equal(loss(model), both)
    unload_lora(model, "default")
    load_lora(model, tmp_path)
    assert torch.equal(loss(model), with_style)


def test_what_was_trained_can_be_fused(model, loss):
    lora = learned(add_lora(model, rank=4, alpha=6))
    beside = loss(model)
    fuse_lora(model)
    torch.testing.assert_close(loss(model), beside, rtol=1e-5, atol=0)
    assert not loss(model).requires_grad
    unfuse_lora(model)
    assert torch.equal(loss(lora), beside)


def test_a_copy_has_factors_of_its_own_and_shares_the_transformer(model):
    lora = learned(add_lora(model, rank=4))
    twin = copy.deepcopy(lora)
    assert twin.transformer is model
    assert twin.state_dict().keys() == lora.state_dict().keys() != set()
    for mine, its in zip(lora.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, its)
        assert mine.data_ptr() != its.data_ptr()


def test_factors_that_the_transformer_does_not_hold_cannot_be_called(model, loss):
    lora = learned(add_lora(model, rank=4))
    average = AveragedModel(lora)
    average.update_parameters(lora)
    for absent in (average, copy.deepcopy(lora)):
        with pytest.raises(ValueError, match="the transformer does not hold these factors, as in a copy"):
            loss(absent)
    both = copy.deepcopy(model)
    assert torch.equal(loss(lora), loss(both))
    unload_lora(model)
    with pytest.raises(ValueError, match="does not hold these factors"):
        loss(lora)


def test_the_state_of_an_adapter_is_loaded_strictly(model):
    lora = learned(add_lora(model, rank=4))
    state = {name: weight.clone() for name, weight in lora.state_dict().items()}
    first = next(iter(state))
    with pytest.raises(RuntimeError, match="Missing key"):
        lora.load_state_dict({})
    with pytest.raises(RuntimeError, match=f'Missing key.*: "{first}"'):
        lora.load_state_dict({name: weight for name, weight in state.items() if name != first})
    lora.load_state_dict({name: 2 * weight for name, weight in state.items()})
    assert all(torch.equal(weight, 2 * state[name]) for name, weight in lora.state_dict().items())


def test_the_state_of_a_plain_model_goes_into_one_with_an_adapter(model):
    state = {name: weight + 1 for name, weight in model.state_dict().items()}
    lora = learned(add_lora(model, rank=4))
    before = [parameter.clone() for parameter in lora.parameters()]
    model.load_state_dict(state)
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(lora.parameters(), before, strict=True))


def test_a_failed_save_leaves_the_file_before_it(model, tmp_path, monkeypatch):
    add_lora(model, rank=4)
    save_lora(model, tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        save_lora(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0; it must be an integer, at least 1"),
        ({"rank": 2.0}, "rank is 2.0; it must be an integer"),
        ({"rank": True}, "rank is True; it must be an integer"),
        ({"rank": 4, "alpha": float("inf")}, "alpha is inf; it must be positive and finite"),
        ({"rank": 4, "alpha": 0}, "alpha is 0.0; it must be positive and finite"),
        ({"rank": 4, "targets": ["to_q", "o_k"]}, r"targets o_k are no linear layers of the model; it has attn1\.to_k"),
        ({"rank": 4, "targets": []}, r"targets is empty; it has attn1\.to_k"),
        ({"rank": 4, "targets": "to_q"}, r"targets is the string 'to_q'; it must be a list of names: give \['to_q'\]"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused_and_changes_nothing(model, settings, message):
    text = repr(model)
    with pytest.raises(ValueError, match=message):
        add_lora(model, **settings)
    assert (repr(model), model.adapters) == (text, {})
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_failure_before_the_factors_are_made_freezes_nothing(model):
    with pytest.raises(RuntimeError):
        add_lora(model, rank=2**50)  # more than any memory holds
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_may_be_named_as_a_file_names_them(model):
    lora = add_lora(model, rank=4, targets=["transformer.transformer_blocks.1.attn1.to_q", "transformer.proj_out"])
    assert lora._names == ("transformer_blocks.1.attn1.to_q", "proj_out")


def test_an_adapter_in_training_is_not_replaced_by_a_file(model, tmp_path):
    lora = add_lora(model, rank=4)
    save_lora(model, tmp_path)
    with pytest.raises(ValueError, match="the adapter 'default' is in training: save_lora and unload_lora it first"):
        load_lora(model, tmp_path, name="default")
    save_lora(model, tmp_path)
    unload_lora(model)
    assert load_lora(model, tmp_path, name="default") == "default"
    assert len(list(lora.parameters())) == 2 * 2 * 8  # factors, blocks, layers: in the adapter, but not in the model
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_saving_a_model_says_how_its_adapter_in_training_is_saved(model, tmp_path):
    add_lora(model, rank=4, name="zog")
    with pytest.warns(UserWarning, match="are not saved: .*; save_lora writes 'zog', which is in training, by itself"):
        model.save_pretrained(tmp_path)


def test_one_adapter_is_trained_at_a_time(model, tmp_path):
    with pytest.raises(ValueError, match="no adapter 'default' is in training"):
        save_lora(model, tmp_path)
    add_lora(model, rank=4)
    with pytest.raises(ValueError, match="the model has an adapter 'default'"):
        add_lora(model, rank=4)
    with pytest.raises(ValueError, match="the adapter 'default' is in training"):
        add_lora(model, rank=4, name="other")
    fuse_lora(model)
    with pytest.raises(ValueError, match="adapters are fused"):
        add_lora(model, rank=4, name="other")
