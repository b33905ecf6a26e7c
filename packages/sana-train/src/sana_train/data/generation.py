"""Text from a generative model of transformers: greedy, so that it depends on the input alone."""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn


def import_transformers(who: str) -> Any:
    """The package; ImportError says who needs it."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"{who} needs transformers: pip install 'sana-train[captions]'") from error
    return transformers


def load(
    kind: Any,
    repo_or_dir: str | Path,
    *,
    revision: str | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Any:
    """A model of an Auto class from safetensors files, in eval mode; dtype None is the files'. No remote code is run.

    Raises:
        OSError: there is no such model, or it has no safetensors.
        ValueError: it is not of that class, or needs code of its own.
    """
    from transformers import PretrainedConfig

    # transformers renamed torch_dtype within its version 4.
    dtype_name = "dtype" if hasattr(PretrainedConfig(), "dtype") else "torch_dtype"
    model: nn.Module = kind.from_pretrained(
        str(repo_or_dir),
        revision=revision,
        use_safetensors=True,
        trust_remote_code=False,
        **{dtype_name: dtype or "auto"},
    )
    return model.to(device=device).eval()


@torch.inference_mode()
def new_texts(model: Any, processor: Any, inputs: Mapping[str, Any], *, max_new_tokens: int) -> list[str]:
    """What the model writes after each input, without the input."""
    known = signature(model.forward).parameters  # some tokenizers give token_type_ids to models that know none
    taken = {name: value for name, value in inputs.items() if name != "token_type_ids" or name in known}
    inputs = {name: _placed(value, model) for name, value in taken.items()}
    tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    given = inputs.get("input_ids")
    if given is not None and torch.equal(tokens[:, : given.shape[1]], given):  # encoder-decoders begin anew
        tokens = tokens[:, given.shape[1] :]
    return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]


def _placed(value: Any, model: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device=model.device, dtype=model.dtype if value.is_floating_point() else None)
