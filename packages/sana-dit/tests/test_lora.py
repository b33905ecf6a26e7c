"""LoRA adapters: the numbers of diffusers with PEFT, beside the weights and fused, and nothing left when they go."""

import pytest
import torch
from diffusers import SanaPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from sana_dit import (
    StepGraphs,
    fuse_lora,
    guided_velocity,
    load_lora,
    quantize_linears,
    unfuse_lora,
    unload_lora,
)
from sana_dit.accelerate import DiffusersTransformer
from sana_dit.captions import Captions

ATTENTION = ["to_q", "to_k", "to_v"]  # what diffusers' training script adapts
EVERYTHING = [
    *ATTENTION,
    "to_out.0",
    "conv_inverted",
    "conv_point",
    "proj",
    "linear_1",
    "linear_2",
    "linear",
    "proj_out",
]

of_several = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # PEFT's


@pytest.fixture
def theirs(make_diffusers):
    return make_diffusers(qk_norm="rms_norm_across_heads")


@pytest.fixture
def model(theirs, ours):
    return ours(theirs)  # before adapters rename the weights


@pytest.fixture
def adapter(theirs, tmp_path):
    """Adds an adapter to diffusers' model and saves it as diffusers does."""

    def make(name="default", *, targets=EVERYTHING, **settings):
        torch.manual_seed(len(name))
        settings = {"r": 4, "lora_alpha": 2, "init_lora_weights": False} | settings
        theirs.add_adapter(LoraConfig(target_modules=targets, **settings), adapter_name=name)
        state = get_peft_model_state_dict(theirs, adapter_name=name)
        metadata = theirs.peft_config[name].to_dict()
        SanaPipeline.save_lora_weights(tmp_path / name, state, transformer_lora_adapter_metadata=metadata)
        return tmp_path / name

    return make


@pytest.fixture
def call(make_inputs):
    @torch.no_grad()
    def call(model):
        return model(**make_inputs())

    return call


@pytest.fixture
def agree(call, call_diffusers, make_inputs, theirs):
    """Whether our model and diffusers' give the same: float32 has 24 bits, and the numbers pass some 20 layers."""

    def agree(model):
        with torch.no_grad():
            expected = call_diffusers(theirs, make_inputs())
        return (call(model) - expected).norm() <= 1e-5 * expected.norm()

    return agree


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING])
@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"to_q": 7}, "rank_pattern": {"to_q": 2}}]
)
def test_an_adapter_gives_the_numbers_of_diffusers(model, adapter, agree, targets, settings):
    folder = adapter(targets=targets, **settings)
    assert not agree(model)
    assert load_lora(model, folder) == str(folder)
    assert agree(model)
    fuse_lora(model)
    assert agree(model)


@of_several
def test_several_adapters_add_up_at_their_scales(model, theirs, adapter, agree):
    one, two = adapter("one"), adapter("another", targets=ATTENTION, r=2)
    theirs.set_adapters(["one", "another"], [0.5, -2.0])
    load_lora(model, one, scale=0.5)
    load_lora(model, two, scale=-2)
    assert agree(model)
    assert model.adapters == {str(one): 0.5, str(two): -2}
    fuse_lora(model)
    assert agree(model)


def test_loading_again_changes_the_scale(model, theirs, adapter, agree):
    folder = adapter("one")
    theirs.set_adapters(["one"], [0.25])
    load_lora(model, folder)
    assert not agree(model)
    load_lora(model, folder, scale=0.25)
    assert agree(model)
    assert model.adapters == {str(folder): 0.25}


@of_several
def test_a_fused_model_stays_fused_as_adapters_come_and_go(model, theirs, adapter, agree):
    one, two = adapter("one"), adapter("another", targets=ATTENTION)
    theirs.set_adapters(["one", "another"])
    load_lora(model, one, name="first")
    fuse_lora(model)
    load_lora(model, two)
    assert agree(model)
    with_both = model.blocks[0].self_attn.to_q.weight.clone()
    theirs.set_adapters(["another"])
    unload_lora(model, "first")
    assert agree(model)
    assert not torch.equal(model.blocks[0].self_attn.to_q.weight, with_both)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_left_of_an_unloaded_adapter(model, adapter, call, dtype):
    model.to(dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    velocity, text = call(model), repr(model)
    load_lora(model, adapter())
    assert model.state_dict().keys() == before.keys()
    fuse_lora(model)
    assert any(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    unload_lora(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert torch.equal(call(model), velocity)
    assert (repr(model), model.adapters) == (text, {})


def test_a_fused_adapter_is_saved_and_one_beside_the_weights_is_not(model, adapter, call, tmp_path):
    plain = call(model)
    load_lora(model, adapter())
    with pytest.warns(UserWarning, match="adapters that are loaded are not saved: call fuse_lora first"):
        model.save_pretrained(tmp_path / "beside")
    assert torch.equal(call(type(model).from_pretrained(tmp_path / "beside")), plain)
    fuse_lora(model)
    model.save_pretrained(tmp_path / "fused")
    assert torch.equal(call(type(model).from_pretrained(tmp_path / "fused")), call(model))
    unfuse_lora(model)
    assert not torch.equal(call(model), plain)  # the adapter is beside the weights again


def replayed(function):
    output = function()
    return lambda: output.copy_(function())


@pytest.mark.parametrize("change", [load_lora, fuse_lora, unfuse_lora, unload_lora])
def test_a_velocity_in_use_follows_the_adapters(model, adapter, change, monkeypatch):
    """Conditioning is read anew and recorded steps are recorded anew, though no weight has moved."""
    folder = adapter()
    if change is not load_lora:
        load_lora(model, folder)
    if change is unfuse_lora:
        fuse_lora(model)
    recordings = []
    record = "sana_dit.step_graphs.record_cuda_graph"
    monkeypatch.setattr(record, lambda function: recordings.append(1) or replayed(function))
    graphs = StepGraphs(model)
    captions = Captions(torch.randn(2, 40, 16), torch.ones(2, 40))
    velocity = guided_velocity(model, captions, Captions(captions.embeddings[:1], torch.ones(1, 40)), denoise=graphs)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500.0, 500.0])
    with torch.no_grad():
        before = [velocity(x, t) for _ in range(4)][-1]
        change(*((model, folder) if change is load_lora else (model,)))
        after = [velocity(x, t) for _ in range(4)]
        expected = guided_velocity(model, captions, Captions(captions.embeddings[:1], torch.ones(1, 40)))(x, t)
    assert len(recordings) == 2
    assert all(torch.equal(v, expected) for v in after)
    assert change in (fuse_lora, unfuse_lora) or not torch.allclose(before, expected, atol=1e-2)


def test_an_accelerated_transformer_follows_the_adapters(model, theirs, adapter, make_inputs, call_diffusers):
    accelerated, inputs = DiffusersTransformer(model, theirs.config), make_inputs()
    folder = adapter()
    with torch.no_grad():
        plain = call_diffusers(accelerated, inputs)
        load_lora(model, folder)
        adapted, expected = call_diffusers(accelerated, inputs), call_diffusers(theirs, inputs)
        unload_lora(model)
        assert torch.equal(call_diffusers(accelerated, inputs), plain)
    assert (adapted - expected).norm() <= 1e-5 * expected.norm()


def test_an_adapter_works_beside_quantised_weights_and_is_not_fused_into_them(model, adapter, call):
    pytest.importorskip("bitsandbytes")
    folder = adapter(targets=ATTENTION)
    quantize_linears(model.blocks, "nf4", device="cpu")
    plain = call(model)
    load_lora(model, folder)
    assert not torch.allclose(call(model), plain, atol=1e-2)
    with pytest.raises(ValueError, match="cannot be fused into quantised weights"):
        fuse_lora(model)
    unload_lora(model)
    assert torch.equal(call(model), plain)


@pytest.mark.parametrize("fused", [False, True])
def test_a_refused_adapter_changes_nothing(model, adapter, call, tmp_path, fused):
    folder = adapter("good")
    load_lora(model, folder, scale=0.5, name="good")
    if fused:
        fuse_lora(model)
    before, adapters = call(model), model.adapters
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no adapter in"):
        load_lora(model, tmp_path / "empty", name="good")
    with pytest.raises(ValueError, match=r"leave the range of torch\.float32"):
        load_lora(model, folder, scale=1e39, name="good")
    assert torch.equal(call(model), before)
    assert model.adapters is adapters


def test_calls_that_make_no_sense_say_so(model, adapter):
    with pytest.raises(ValueError, match="no adapter is loaded: call load_lora first"):
        fuse_lora(model)
    with pytest.raises(ValueError, match=r"no adapter 'x' is loaded; there are \[\]"):
        unload_lora(model, "x")
    with pytest.raises(ValueError, match="scale is nan"):
        load_lora(model, "me/style", scale=float("nan"))
    unload_lora(model)  # all of none
    unfuse_lora(model)
