from dataclasses import replace

import pytest

from sana_ae.training import (
    HIGH_RESOLUTION_LATENT,
    LOW_RESOLUTION_FULL,
    LOW_RESOLUTION_REFINEMENT,
    AdversarialAutoencoder,
    freeze_for,
)

# up_blocks.5 is the stage at the latent, and {} the largest that has layers.
LARGEST = {"sana": 0, "lite": 1, "f32c32": 1}
TRAINED = {
    "all": ("encoder.", "decoder."),
    "middle": ("encoder.down_blocks.5.", "encoder.conv_out.", "decoder.conv_in.", "decoder.up_blocks.5."),
    "decoder": ("decoder.",),
    "decoder_head": ("decoder.up_blocks.{}.", "decoder.norm_out.", "decoder.conv_out."),
}


@pytest.mark.parametrize("shape", LARGEST)
@pytest.mark.parametrize("trains", TRAINED)
def test_exactly_the_parts_of_a_phase_are_trained(make_model, shape, trains):
    model = make_model(shape)
    freeze_for(model, replace(LOW_RESOLUTION_FULL, trains=trains))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = tuple(part.format(LARGEST[shape]) for part in TRAINED[trains])
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(parts)}
    assert trained


def test_the_phases_are_those_of_the_paper():
    phases = (LOW_RESOLUTION_FULL, HIGH_RESOLUTION_LATENT, LOW_RESOLUTION_REFINEMENT)
    assert [phase.trains for phase in phases] == ["all", "middle", "decoder_head"]
    assert [phase.resolution for phase in phases] == [256, 1024, 256]
    assert [phase.lr for phase in phases] == [6.4e-5, 1.6e-5, 5.4e-5]
    assert [phase.adversarial_weight > 0 for phase in phases] == [False, False, True]


def test_no_stages_leave_the_convolutions_at_the_latent(make_model):
    model = make_model()
    freeze_for(model, replace(HIGH_RESOLUTION_LATENT, stages=0))
    trained = {name.rpartition(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"encoder.conv_out", "decoder.conv_in"}


def test_a_later_phase_frees_what_an_earlier_one_froze(make_model):
    model = make_model()
    freeze_for(model, LOW_RESOLUTION_REFINEMENT)
    freeze_for(model, LOW_RESOLUTION_FULL)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_more_stages_than_there_are_are_refused(make_model):
    with pytest.raises(ValueError, match="stages is 9; this autoencoder has 6 on each side"):
        freeze_for(make_model(), replace(HIGH_RESOLUTION_LATENT, stages=9))


def test_a_resolution_that_the_autoencoder_cannot_take_is_refused(make_model):
    with pytest.raises(ValueError, match="100 pixels; this autoencoder takes multiples of 32"):
        freeze_for(make_model(), replace(LOW_RESOLUTION_FULL, resolution=100))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trains": "encoder"}, "trains is 'encoder'"),
        ({"stages": -1}, "stages is -1"),
        ({"betas": (0.9, 1.0)}, r"betas are \(0.9, 1.0\)"),
        ({"adaptive": True}, "adversarial_weight is 0, adaptive True"),
    ],
)
def test_impossible_phases_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(LOW_RESOLUTION_FULL, **changes)


def test_frozen_batch_norms_keep_their_averages(make_model):
    model = AdversarialAutoencoder(make_model("f32c32"), replace(LOW_RESOLUTION_FULL, trains="decoder_head")).train()
    norms = {name: m.training for name, m in model.named_modules() if type(m).__name__ == "BatchNorm2d"}
    assert {name for name, training in norms.items() if training} == {
        name for name in norms if name.startswith("autoencoder.decoder.up_blocks.1.")
    }
    assert not all(norms.values())
