"""Where to run and in what dtype: a device that is there, and the precision that is a gain on it."""

import torch

from sana.cpu_precision import fastest_dtype


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device to run on, None being the first GPU or else the CPU; ValueError if it cannot be used here."""
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


def half_on_gpu(device: torch.device) -> torch.dtype:
    """The dtype of a model that only labels, encodes or decodes: bf16 on a GPU, else fp32."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def running_dtype(published: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to run a checkpoint in, by that of its files: a half precision where that is a gain.

    On a GPU it is: the files' own, bf16 where they are in fp32. On a CPU bf16 may be: see `fastest_dtype`.
    """
    if device.type == "cpu":
        return torch.float32 if published == torch.float32 else fastest_dtype()
    return torch.bfloat16 if published == torch.float32 else published
