"""A judge as files: the released three folders, each readable by transformers, and config.json last."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from sana_judge.checkpoint_reading import CONFIG, PARTS, read_json
from sana_judge.judge_facts import JudgeFacts
from sana_judge.vila.config import PROJECTOR, VILAConfig
from sana_judge.whole_files import replace_file, write_json

_SHARD_SIZE = "5GB"
_ALL_WEIGHTS = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
    "pytorch_model.bin.index.json",
)
SAVED_WEIGHTS = (*_ALL_WEIGHTS, *(f"{part}/{name}" for part in PARTS for name in _ALL_WEIGHTS))
"""Patterns of weights of any layout: an index, or one file of all parts, would be read before those saved here."""
_HEAD = "llm.lm_head.weight"
_ROPE_THETA = 10_000.0  # of a Qwen2 that says nothing


def save_judge(
    directory: Path,
    config: VILAConfig,
    weights: Mapping[str, Tensor],
    *,
    tokenizer: PreTrainedTokenizerBase,
    facts: JudgeFacts,
) -> None:
    """Writes a whole judge: what `save_model` writes, the tokenizer in llm, and judge.json.

    Raises:
        ValueError: Weights are quantized.
    """
    check_savable(weights)
    (directory / "llm").mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).unlink(missing_ok=True)
    tokenizer.save_pretrained(directory / "llm")
    _name_tokenizer_for_all_versions(directory / "llm" / "tokenizer_config.json")
    facts.write(directory)
    save_model(directory, config, weights)


def save_model(directory: Path, config: VILAConfig, weights: Mapping[str, Tensor]) -> None:
    """Writes config.json and the folders llm, vision_tower and mm_projector; weights are named as in `VILAModel`.

    config.json, without which a folder is no checkpoint, is removed first and written last, so that half a folder is
    never read. The vision tower is saved with the layers it runs, and the language model without its head where that
    is tied.

    Raises:
        ValueError: Weights are quantized.
    """
    check_savable(weights)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).unlink(missing_ok=True)
    for path in [path for pattern in SAVED_WEIGHTS for path in directory.glob(pattern)]:
        path.unlink()
    kept = {k: v for k, v in weights.items() if not (k == _HEAD and config.language.tie_word_embeddings)}
    for part, fields in _part_configs(config).items():
        own = {name.removeprefix(f"{part}."): tensor for name, tensor in kept.items() if name.startswith(f"{part}.")}
        if part == "vision_tower":
            own = {f"vision_model.{name}": tensor for name, tensor in own.items()}
        (directory / part).mkdir(exist_ok=True)
        _write_shards(directory / part, own)
        write_json(directory / part / CONFIG, fields)
    write_json(directory / CONFIG, _root_config(config))


def _write_shards(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes model.safetensors, or several with an index where it would be too large."""
    split = split_torch_state_dict_into_shards(dict(weights), max_shard_size=_SHARD_SIZE)
    for filename, names in split.filename_to_tensors.items():
        shard = {name: weights[name].detach().cpu().contiguous() for name in names}
        replace_file(folder / filename, partial(save_file, shard, metadata={"format": "pt"}))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)


def _name_tokenizer_for_all_versions(path: Path) -> None:
    """Undoes two names that transformers 4 does not know; 5 reads the older ones too."""
    fields = read_json(path)
    if fields.get("tokenizer_class") == "TokenizersBackend":
        fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(fields.get("extra_special_tokens"), list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    write_json(path, fields)


def judge_card(repo: str, num_parameters: int) -> str:
    """Returns a short README.md for a judge on the Hub."""
    return f"""---
library_name: sana-judge
pipeline_tag: image-text-to-text
tags: [sana]
---

# {repo.rpartition("/")[2]}

A judge of {num_parameters / 1e6:,.1f}M parameters: does an image show the prompt?

```python
from sana_judge import VILAJudge

judge = VILAJudge.from_pretrained("{repo}")
values = judge("a red dog", ["0.png", "1.png"])  # P(yes) for each, higher is better
```
"""


def check_savable(weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError if weights are quantized: their layout is that of the machine they were quantized on."""
    if packed := [name for name, tensor in weights.items() if not torch.is_floating_point(tensor)]:
        raise ValueError(f"{packed[0]} is {weights[packed[0]].dtype}; load the judge without quantize to save it")


def _root_config(config: VILAConfig) -> dict[str, Any]:
    return {
        "architectures": ["VILAForCausalLM"],
        "model_type": "vila",
        "hidden_size": config.language.hidden_size,
        "mm_hidden_size": config.vision.hidden_size,
        "image_aspect_ratio": config.image_aspect_ratio,
        "min_tiles": config.min_tiles,
        "max_tiles": config.max_tiles,
        "mm_vision_select_layer": -1,  # the layers after it are not saved
        "mm_vision_select_feature": "cls_patch",
        "chat_template": config.chat_template,
    }


def _part_configs(config: VILAConfig) -> dict[str, dict[str, Any]]:
    language = _plain(config.language, "Qwen2ForCausalLM")
    # transformers 5 keeps it in rope_parameters, and 4 reads nothing but this.
    language |= {"rope_theta": _rope_theta(config.language)}
    vision = _plain(config.vision, "SiglipVisionModel") | {"num_hidden_layers": config.vision_layers}
    projector = {"model_type": "v2l_projector", "mm_projector_type": PROJECTOR}
    return dict(zip(PARTS, (language, vision, projector), strict=True))


def _plain(config: PretrainedConfig, architecture: str) -> dict[str, Any]:
    """All fields but those that name a file or a version of something."""
    fields = json.loads(config.to_json_string(use_diff=False))
    for name in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        fields.pop(name, None)
    return {**fields, "architectures": [architecture]}


def _rope_theta(config: Any) -> float:
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    theta: float = parameters.get("rope_theta", getattr(config, "rope_theta", _ROPE_THETA))
    return theta
