"""Public models of transformers, found and loaded whole: no remote code, no weight left at random."""

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from sana_judge.checkpoint_reading import CONFIG, find_checkpoint, find_weights, read_json


def find_model(
    repo_or_dir: str | PathLike[str], *, revision: str | None, example: str, kinds: tuple[str, ...] = ()
) -> Path:
    """Returns the folder of a model that `save_pretrained` wrote, downloading it from the Hub if need be.

    Args:
        repo_or_dir: A Hub repository (owner/name) or a folder.
        revision: Branch, tag or commit on the Hub.
        example: A repository that would do, for the messages.
        kinds: What its config.json may call its model_type; any if empty.

    Raises:
        FileNotFoundError: It cannot be found or fetched, or has no weights: says what to fetch.
        ValueError: It is a model of another kind.
    """
    try:
        root = find_checkpoint(repo_or_dir, revision=revision)
    except (OSError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"no model {str(repo_or_dir)!r} ({_first_line(error)}): give the folder of one, or a Hub repository that "
            f"can be fetched, such as {example} (hf download {example})"
        ) from error
    kind = read_json(root / CONFIG).get("model_type")
    if kinds and kind not in kinds:
        raise ValueError(f"{root} holds a model of type {kind!r}; it must be one of {kinds}, such as {example}")
    if not find_weights(root):
        raise FileNotFoundError(
            f"{root} has no weights (model.safetensors, its shards, or pytorch_model.bin): fetch a whole model, "
            f"such as {example} (hf download {example})"
        )
    return root


def load_model(model_class: Any, root: Path, *, dtype: torch.dtype | None, device: torch.device | str | None) -> Any:
    """Returns a model of a transformers class in eval mode; dtype None is the file's, device None the CPU.

    Raises ValueError where a file is damaged, or weights are missing or of another shape: transformers would only
    warn, and draw them at random.
    """
    # transformers renamed torch_dtype within its version 4.
    dtype_name = "dtype" if hasattr(PretrainedConfig(), "dtype") else "torch_dtype"
    try:
        model, found = model_class.from_pretrained(
            root, trust_remote_code=False, output_loading_info=True, **{dtype_name: dtype or "auto"}
        )
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(f"the weights in {root} are damaged ({_first_line(error)}): download them again") from error
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"the weights in {root} lack {len(missing)} of {model_class.__name__} ({', '.join(missing[:3])} ...): "
            "download the whole model"
        )
    return model.eval().to(device or "cpu")


def load_tokenizer(root: str | Path) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a folder or repository; raises ValueError where it is missing or damaged."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(root, trust_remote_code=False)
    except ImportError:
        raise  # SigLIP's needs sentencepiece, and says so
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(
            f"the tokenizer in {root} is missing or damaged ({_first_line(error)}): download it again"
        ) from error
    return tokenizer


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
