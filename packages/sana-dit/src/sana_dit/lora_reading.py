"""LoRA files as diffusers, PEFT and kohya write them: found, read, and held against the layers of a model."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from sana_dit.checkpoint_reading import fetcher, read_json, read_safetensors
from sana_dit.low_rank import LowRank
from sana_dit.weights import first_few

_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # diffusers' and PEFT's
_CONFIG = "adapter_config.json"
_PREFIXES = ("transformer.", "diffusion_model.", "base_model.model.", "lora_unet_", "lora_transformer_", "")
_PARTS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".alpha": "alpha",
}
# Settings of PEFT's that make an adapter more than two factors.
_VARIANTS = ("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config")
# Initialisations of PEFT's that change the weights which the adapter is added to.
_CHANGING_INITIALIZATIONS = ("pissa", "olora", "corda", "loftq", "lora_ga")


def find_lora(source: str | PathLike[str], *, file: str | None, revision: str | None) -> Path:
    """Finds the file of an adapter: the source itself, or in a folder or Hub repository.

    Raises:
        FileNotFoundError: There is none.
        ValueError: There are several and `file` does not say which, or it is no safetensors file.
    """
    path = Path(source)
    if not path.is_file():
        fetch = fetcher(source, revision)
        wanted = _NAMES if file is None else (file,)
        folder = fetch([*wanted, _CONFIG])
        found = [folder / name for name in wanted if (folder / name).is_file()][:1]
        found = found or ([] if file else sorted(folder.glob("*.safetensors")))
        if len(found) > 1:
            raise ValueError(f"{source} holds {[f.name for f in found]}: say which with file=")
        if not found:
            run = file is None and any((folder / "model" / name).is_file() for name in wanted)
            remedy = f"that of a run is in {folder / 'model'}" if run else "name its file with file="
            raise FileNotFoundError(f"no adapter in {source}: it has no {' or '.join(wanted)}; {remedy}")
        path = found[0]
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no .safetensors file, and others could run foreign code: convert the adapter")
    return path


def read_lora(path: Path, layers: Mapping[str, nn.Linear]) -> dict[str, LowRank]:
    """Reads what an adapter adds to the layers that diffusers calls so, in fp32 and times alpha / rank.

    Raises:
        ValueError: The file is damaged, or does not fit: names what is unknown, incomplete, of another shape or not
            finite. Or it is more than a LoRA, such as a DoRA.
    """
    tensors, config = read_safetensors(path), _read_config(path)
    _check_kind(path, config)
    names = {name: name for name in layers} | {name.replace(".", "_"): name for name in layers}
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        module, part = _split(key)
        if module in names and part is not None:
            parts.setdefault(names[module], {})[part] = tensor.float()
        else:
            unknown.append(key)
    _check(path, parts, unknown, layers)
    return {name: _factors(path, name, found, config) for name, found in parts.items()}


def _split(key: str) -> tuple[str, str | None]:
    """Takes "transformer.x.lora_A.weight" apart into "x" and "down"."""
    prefix = next(prefix for prefix in _PREFIXES if key.startswith(prefix))
    suffix = next((suffix for suffix in _PARTS if key.endswith(suffix)), "")
    return key[len(prefix) : len(key) - len(suffix)], _PARTS.get(suffix)


def _check(
    path: Path, parts: dict[str, dict[str, Tensor]], unknown: list[str], layers: Mapping[str, nn.Linear]
) -> None:
    incomplete = [name for name, found in parts.items() if not {"down", "up"} <= found.keys()]
    shapes = [text for name, found in parts.items() if name not in incomplete for text in _misfit(name, found, layers)]
    infinite = [name for name, found in parts.items() if not all(t.isfinite().all() for t in found.values())]
    problems = {
        "unknown keys": unknown,
        "layers with one factor of two": incomplete,
        "layers of another shape": shapes,
        "layers with NaN or infinity": infinite,
    }
    texts = [f"{len(names)} {kind} ({first_few(names)})" for kind, names in problems.items() if names]
    if not texts and not parts:
        texts = ["it is empty"]
    if any("conv_depth" in key for key in unknown):
        texts.append("a depthwise convolution takes no adapter, which would mix its channels")
    if texts:
        width = layers["proj_out"].in_features
        raise ValueError(f"{path} does not fit this transformer of width {width}: {'; '.join(texts)}")


def _misfit(name: str, found: dict[str, Tensor], layers: Mapping[str, nn.Linear]) -> Iterator[str]:
    layer, (down, up) = layers[name], (found["down"], found["up"])
    inside, outside = math.prod(down.shape[1:]), math.prod(up.shape[::2])
    if min(down.ndim, up.ndim) < 2 or math.prod(up.shape[2:]) != 1:
        yield f"{name}: {tuple(down.shape)} and {tuple(up.shape)} are no factors"
    elif down.shape[0] != up.shape[1]:
        yield f"{name}: ranks {down.shape[0]} and {up.shape[1]}"
    elif (inside, outside) != (layer.in_features, layer.out_features):
        yield f"{name}: {inside} to {outside}, not {layer.in_features} to {layer.out_features}"


def _factors(path: Path, name: str, found: dict[str, Tensor], config: dict[str, Any]) -> LowRank:
    down, up = found["down"].flatten(1), found["up"].flatten(1)  # 1x1 and patch convolutions are linear layers here
    rank = len(down)
    said = _setting(path, config, "r", "rank_pattern", name)
    if said not in (None, rank):
        raise ValueError(f"{path} says rank {said} of {name}, and its factors have rank {rank}: download it again")
    alpha = _setting(path, config, "lora_alpha", "alpha_pattern", name)
    if "alpha" in found:
        alpha = found["alpha"].item()
    if alpha is None:
        return LowRank(down, up)
    return LowRank(down, up * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)))


def _setting(path: Path, config: dict[str, Any], name: str, pattern_name: str, module: str) -> float | None:
    """Returns a number of the configuration for one layer: the pattern's where one ends like the layer."""
    patterns, value = config.get(pattern_name) or {}, config.get(name)
    if not isinstance(patterns, dict):
        raise ValueError(f"{path} has a {pattern_name} of {patterns!r}; it must be an object")
    for pattern, number in patterns.items():
        # PEFT takes regular expressions; what it writes are names, and only names are followed here.
        if not re.fullmatch(r"\^?[\w.]+", pattern):
            raise ValueError(f"{path} has {pattern!r} in its {pattern_name}: only names of layers can be followed")
        if f".{module}".endswith(f".{pattern}") or f"^{module}" == pattern:
            value = number
            break
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
    ):
        raise ValueError(f"{path} has {value!r} for {name}; it must be a number")
    return value


def _read_config(path: Path) -> dict[str, Any]:
    """Reads PEFT's settings: from the header of the file, as diffusers puts them there, or from a file beside it."""
    with safe_open(path, framework="pt") as file:
        header = (file.metadata() or {}).get("lora_adapter_metadata")
    if header is None:
        return read_json(path.with_name(_CONFIG))
    try:
        fields = json.loads(header)
    except ValueError as error:
        raise ValueError(f"{path} has a lora_adapter_metadata that is no JSON ({error}): download it again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} has a lora_adapter_metadata that is no object: download it again")
    return {name.removeprefix("transformer."): value for name, value in fields.items()}


def _check_kind(path: Path, config: dict[str, Any]) -> None:
    kind, start = config.get("peft_type", "LORA"), config.get("init_lora_weights")
    variants = [name for name in _VARIANTS if config.get(name)]
    if kind != "LORA" or variants:
        raise ValueError(f"{path} is a {' '.join([str(kind), *variants])}; only plain LoRA adapters can be loaded")
    if isinstance(start, str) and start.lower().startswith(_CHANGING_INITIALIZATIONS):
        raise ValueError(
            f"{path} was started with {start}, which changes the model's weights: convert it to a plain LoRA"
        )
