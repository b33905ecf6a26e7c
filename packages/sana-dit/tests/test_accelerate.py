import pytest
import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from sana_dit.accelerate import accelerate_diffusers
from sana_dit.captions import Captions
from sana_dit.guidance import guided_velocity
from sana_dit.sampling import draw_noise, flow_dpm_solver, scm, seeded_generators, seeded_noise
from torch import Tensor

# diffusers' DPM scheduler hands a tensor to np.array, which NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (4, 6, 4)
SIZE = {"height": 6 * 32, "width": 4 * 32, "use_resolution_binning": False, "output_type": "latent"}


def make_transformer(**changes: object) -> SanaTransformer2DModel:
    torch.manual_seed(0)
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 16,
        "cross_attention_dim": 32,
        "caption_channels": 6,
        "sample_size": 8,
    }
    model = SanaTransformer2DModel(**config | changes).eval().requires_grad_(False)
    model.caption_norm.weight.fill_(1)
    return model


def make_sprint() -> SanaTransformer2DModel:
    return make_transformer(qk_norm="rms_norm_across_heads", guidance_embeds=True, timestep_scale=1000.0)


def make_pipeline(transformer: SanaTransformer2DModel) -> SanaPipeline | SanaSprintPipeline:
    if transformer.config.guidance_embeds:
        pipeline = SanaSprintPipeline(None, None, None, transformer, SCMScheduler())
    else:
        scheduler = DPMSolverMultistepScheduler(
            flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"
        )
        pipeline = SanaPipeline(None, None, None, transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_captions(seed: int, tokens: int) -> Captions:
    generator = torch.Generator().manual_seed(seed)
    return Captions(torch.randn(2, 5, 6, generator=generator), (torch.arange(5) < tokens).long().expand(2, -1))


CAPTIONS, NEGATIVE = make_captions(1, 4), make_captions(2, 1)


def generate(pipeline: SanaPipeline | SanaSprintPipeline, seeds: list[int]) -> Tensor:
    inputs = {"prompt_embeds": CAPTIONS.embeddings, "prompt_attention_mask": CAPTIONS.mask}
    if isinstance(pipeline, SanaPipeline):
        inputs |= {"negative_prompt_embeds": NEGATIVE.embeddings, "negative_prompt_attention_mask": NEGATIVE.mask}
        inputs |= {"num_inference_steps": 6, "negative_prompt": None}
    return pipeline(generator=seeded_generators(seeds), guidance_scale=4.5, **SIZE, **inputs).images
