import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers import (
    DPMSolverMultistepScheduler,
    SanaPAGPipeline,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from safetensors.torch import save_file
from torch import Tensor

from sana_dit.accelerate import accelerate_diffusers
from sana_dit.captions import Captions
from sana_dit.guidance import guided_velocity
from sana_dit.lora import load_lora
from sana_dit.sampling import draw_noise, flow_dpm_solver, scm, seeded_generators, seeded_noise

# diffusers' DPM scheduler hands a tensor to np.array, which NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPRINT = {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True, "timestep_scale": 1000.0}
SHAPE = (4, 6, 4)
SIZE = {"height": 6 * 32, "width": 4 * 32, "use_resolution_binning": False, "output_type": "latent"}


def make_pipeline(transformer: SanaTransformer2DModel) -> SanaPipeline | SanaSprintPipeline:
    if transformer.config.guidance_embeds:
        pipeline = SanaSprintPipeline(None, None, None, transformer, SCMScheduler())
    else:
        scheduler = DPMSolverMultistepScheduler(flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction")
        pipeline = SanaPipeline(None, None, None, transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_captions(seed: int, tokens: int) -> Captions:
    generator = torch.Generator().manual_seed(seed)
    return Captions(torch.randn(2, 5, 16, generator=generator), (torch.arange(5) < tokens).long().expand(2, -1))


CAPTIONS, NEGATIVE = make_captions(1, 4), make_captions(2, 1)


def generate(pipeline: SanaPipeline | SanaSprintPipeline, seeds: list[int]) -> Tensor:
    inputs = {"prompt_embeds": CAPTIONS.embeddings, "prompt_attention_mask": CAPTIONS.mask}
    if isinstance(pipeline, SanaPipeline):
        inputs |= {"negative_prompt_embeds": NEGATIVE.embeddings, "negative_prompt_attention_mask": NEGATIVE.mask}
        inputs |= {"num_inference_steps": 6, "negative_prompt": None}
    return pipeline(generator=seeded_generators(seeds), guidance_scale=4.5, **SIZE, **inputs).images


# Six steps of fp32 sums taken in another order, of latents of size 1 to 10.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize(
    "changes",
    [{}, {"qk_norm": "rms_norm_across_heads", "timestep_scale": 0.5}, {"interpolation_scale": 1.0}, SPRINT],
    ids=["sana-1.0", "sana-1.5", "positions", "sprint"],
)
def test_an_accelerated_pipeline_makes_the_same_images(make_diffusers, changes: dict[str, object]) -> None:
    transformer = make_diffusers(**changes)
    pipeline = make_pipeline(transformer)
    expected = generate(pipeline, [7, 8])
    assert accelerate_diffusers(pipeline) is pipeline
    assert pipeline.transformer is not transformer
    torch.testing.assert_close(generate(pipeline, [7, 8]), expected, **CLOSE)


def test_the_weights_are_shared_and_not_copied(make_diffusers) -> None:
    pipeline = make_pipeline(make_diffusers())
    before = {weight.data_ptr() for weight in pipeline.transformer.state_dict().values()}
    accelerate_diffusers(pipeline)
    after = {weight.data_ptr() for weight in pipeline.transformer.state_dict().values()}
    assert after == before


def test_our_sampler_and_guidance_make_the_image_of_sana_pipeline(make_diffusers) -> None:
    pipeline = accelerate_diffusers(make_pipeline(make_diffusers()))
    velocity = guided_velocity(pipeline.transformer.model, CAPTIONS, NEGATIVE, guidance_scale=4.5)
    ours = flow_dpm_solver(velocity, seeded_noise([7, 8], SHAPE), steps=6)
    torch.testing.assert_close(ours, generate(pipeline, [7, 8]), **CLOSE)


def test_our_sampler_and_guidance_make_the_image_of_sprint(make_diffusers) -> None:
    pipeline = accelerate_diffusers(make_pipeline(make_diffusers(**SPRINT)))
    velocity = guided_velocity(pipeline.transformer.model, CAPTIONS, guidance_scale=4.5)
    generators = seeded_generators([7, 8])
    ours = scm(velocity, draw_noise(generators, SHAPE), steps=2, generators=generators)
    torch.testing.assert_close(ours, generate(pipeline, [7, 8]), **CLOSE)


def test_captions_are_read_once_for_all_steps_of_a_picture(make_diffusers) -> None:
    pipeline = accelerate_diffusers(make_pipeline(make_diffusers()))
    reads, prepare = [], pipeline.transformer.model.prepare
    pipeline.transformer.model.prepare = lambda *captions: reads.append(captions) or prepare(*captions)
    generate(pipeline, [7, 8])
    assert len(reads) == 1
    generate(pipeline, [7, 8])
    assert len(reads) == 2


def test_captions_are_read_again_after_they_or_a_weight_were_written_to(make_diffusers) -> None:
    transformer = make_diffusers()
    adapted = accelerate_diffusers(make_pipeline(transformer)).transformer
    caption, mask = CAPTIONS.embeddings.clone(), CAPTIONS.mask.clone()
    latents, t = torch.randn(2, *SHAPE), torch.tensor([500.0, 20.0])
    with torch.no_grad():
        changes = (
            lambda: None,
            lambda: caption.mul_(2),
            lambda: mask[:, 2:].zero_(),
            lambda: transformer.transformer_blocks[0].attn2.to_k.weight.mul_(3),  # shared, as a LoRA is fused
        )
        for change in changes:
            change()
            expected = transformer(latents, caption, t, encoder_attention_mask=mask).sample
            torch.testing.assert_close(adapted(latents, caption, t, None, mask).sample, expected, **CLOSE)


def test_a_second_call_changes_nothing(make_diffusers) -> None:
    pipeline = accelerate_diffusers(make_pipeline(make_diffusers()))
    transformer = pipeline.transformer
    accelerate_diffusers(pipeline)
    assert pipeline.transformer is transformer


def test_the_pipeline_can_still_be_cast_and_moved(make_diffusers) -> None:
    pipeline = accelerate_diffusers(make_pipeline(make_diffusers()))
    pipeline.to("cpu", torch.bfloat16)
    assert pipeline.transformer.dtype == torch.bfloat16
    assert pipeline.device == pipeline.transformer.device == torch.device("cpu")
    assert generate(pipeline, [7, 8]).isfinite().all()


def test_both_forms_of_output_are_given(make_diffusers) -> None:
    transformer = make_diffusers()
    adapted = accelerate_diffusers(make_pipeline(transformer)).transformer
    inputs = {
        "hidden_states": torch.randn(2, *SHAPE),
        "encoder_hidden_states": CAPTIONS.embeddings,
        "timestep": torch.tensor([500.0, 20.0]),
        "encoder_attention_mask": CAPTIONS.mask,
    }
    expected = transformer(**inputs).sample
    torch.testing.assert_close(adapted(**inputs).sample, expected, **CLOSE)
    torch.testing.assert_close(adapted(**inputs, return_dict=False)[0], expected, **CLOSE)


def test_a_model_may_be_offloaded_after_but_not_before(make_diffusers) -> None:
    pipeline = make_pipeline(make_diffusers())
    expected = generate(pipeline, [7, 8])
    accelerate_diffusers(pipeline)
    _, hook = cpu_offload_with_hook(pipeline.transformer, "cpu")
    torch.testing.assert_close(generate(pipeline, [7, 8]), expected, **CLOSE)
    hook.remove()
    cpu_offload(pipeline.transformer, "cpu")
    assert pipeline.transformer.device.type == "meta"
    torch.testing.assert_close(generate(pipeline, [7, 8]), expected, **CLOSE)
    offloaded = make_pipeline(make_diffusers())
    cpu_offload_with_hook(offloaded.transformer, "cpu")
    with pytest.raises(ValueError, match="before enabling offloading"):
        accelerate_diffusers(offloaded)


def test_what_it_cannot_take_is_refused_and_left_as_it_was(make_diffusers) -> None:
    class Pipeline:
        transformer: object = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match="holds a Linear"):
        accelerate_diffusers(Pipeline())
    lora = make_diffusers()
    lora.add_module("lora_A", torch.nn.Linear(1, 1))
    odd = make_diffusers(norm_eps=1e-5)
    odd_pipeline, lora_pipeline = make_pipeline(odd), make_pipeline(lora)
    with pytest.raises(ValueError, match="LoRA"):
        accelerate_diffusers(lora_pipeline)
    with pytest.raises(ValueError, match="norm_eps"):
        accelerate_diffusers(odd_pipeline)
    assert (odd_pipeline.transformer, lora_pipeline.transformer) == (odd, lora)


def test_control_and_perturbed_attention_are_refused(make_diffusers) -> None:
    transformer = make_diffusers()
    pag = SanaPAGPipeline(None, None, None, transformer, make_pipeline(transformer).scheduler)
    with pytest.raises(ValueError, match="without ControlNet and PAG"):
        accelerate_diffusers(pag)
    adapted = accelerate_diffusers(make_pipeline(transformer)).transformer
    inputs = (torch.randn(2, *SHAPE), CAPTIONS.embeddings, torch.tensor([500.0, 20.0]))
    for name, value in {
        "attention_mask": torch.ones(2, 24),
        "attention_kwargs": {"scale": 0.5},
        "controlnet_block_samples": (torch.zeros(2, 24, 32),),
    }.items():
        with pytest.raises(ValueError, match=name):
            adapted(*inputs, **{name: value})


def test_adapters_of_diffusers_are_refused_with_what_takes_them(make_diffusers, tmp_path) -> None:
    names = ("lora_A", (2, 128)), ("lora_B", (128, 2))
    save_file(
        {f"transformer.transformer_blocks.0.attn1.to_q.{name}.weight": torch.ones(shape) for name, shape in names},
        tmp_path / "pytorch_lora_weights.safetensors",
    )
    pipeline = accelerate_diffusers(make_pipeline(make_diffusers()))
    with pytest.raises(ValueError, match=r"use sana_dit.load_lora\(pipe.transformer.model"):
        pipeline.load_lora_weights(tmp_path)
    assert load_lora(pipeline.transformer.model, tmp_path)
