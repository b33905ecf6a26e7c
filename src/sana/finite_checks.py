"""What a caller or a pipeline's models gave, if it can be drawn with: otherwise an error says which of them failed."""

import torch
from torch import Tensor, nn

from sana_dit import Captions


def check_noise(noise: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raises ValueError where noise that a caller gives is not what a drawing can start from."""
    if noise is None:
        return
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise ValueError(f"noise is {getattr(noise, 'dtype', type(noise).__name__)}; it must be a tensor of floats")
    if noise.shape != shape:
        raise ValueError(f"noise has the shape {tuple(noise.shape)}; it must be {shape}: one for each seed")
    if not noise.isfinite().all():
        raise ValueError("noise has NaN or infinite values; it must be finite")


def checked_captions(captions: Captions) -> Captions:
    """The captions, if their embeddings are finite."""
    _check_finite(captions.embeddings, "caption encoder", "run it in bf16 or fp32 (Gemma-2 overflows in fp16)")
    return captions


def checked_latents(latents: Tensor, transformer: nn.Module) -> Tensor:
    """The latents, if they are finite; otherwise says whether weights are to blame."""
    if not latents.isfinite().all():
        broken = [name for name, weight in transformer.named_parameters() if not weight.isfinite().all()]
        if broken:
            raise FloatingPointError(
                f"the transformer has NaN or infinite weights ({len(broken)} tensors, first {broken[0]}): "
                "download it again"
            )
    _check_finite(latents, "transformer", "use the dtype it was published in, or fp32")
    return latents


def checked_images(images: Tensor, dtype: torch.dtype) -> Tensor:
    """The images, if they are finite and none is all black in fp16, where overflow in the decoder makes them so."""
    _check_finite(images, "autoencoder", "decode in fp32 or bf16")
    if dtype == torch.float16 and (images <= -1).flatten(1).all(1).any():
        raise FloatingPointError(f"the autoencoder gave a black image in {dtype}: decode in fp32 or bf16")
    return images


def _check_finite(values: Tensor, stage: str, remedy: str) -> None:
    if not values.isfinite().all():
        share = 1 - values.isfinite().float().mean().item()
        raise FloatingPointError(f"the {stage} gave NaN or infinite values ({share:.1%} of them): {remedy}")
