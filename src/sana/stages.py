"""What a pipeline needs of each stage: a device that is there, finite numbers, a picture."""

import torch
from torch import Tensor, nn

from sana.cpu_precision import fastest_dtype
from sana_dit import Captions


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device to run on, None being the first GPU or else the CPU; ValueError where there is no such one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {str(device)!r} cannot be used here ({reason}): leave it out, or use 'cpu'"
        ) from error
    return torch.device(device)


def running_dtype(published: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to run a checkpoint in: the half precision it was published in, where that is a gain.

    On a GPU it is, and bf16 for checkpoints in fp32. On a CPU bf16 may be: see `fastest_dtype`.
    """
    if device.type == "cpu":
        return torch.float32 if published == torch.float32 else fastest_dtype()
    return torch.bfloat16 if published == torch.float32 else published


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
        raise FloatingPointError(f"the autoencoder gave a black picture in {dtype}: decode in fp32 or bf16")
    return images


def _check_finite(values: Tensor, stage: str, remedy: str) -> None:
    if not values.isfinite().all():
        share = 1 - values.isfinite().float().mean().item()
        raise FloatingPointError(f"the {stage} gave NaN or infinite values ({share:.1%} of them): {remedy}")
