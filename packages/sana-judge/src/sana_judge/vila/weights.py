"""Names of VILA's weights: three layouts of the same checkpoint become the names of `VILAModel`."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sana_judge.checkpoint_reading import check_weights, read_weights
from sana_judge.vila.config import VILAConfig
from sana_judge.vila.model import VILAModel

# "vision_tower.vision_model." in a folder of its own and in SGLang's export, "vision_tower.vision_tower.vision_model."
# in the whole state_dict of VILA's class; transformers 5 leaves "vision_model." out.
_TOWER = re.compile(r"^vision_tower\.(vision_tower\.)?(vision_model\.)?")
_LAYER = re.compile(r"^vision_tower\.encoder\.layers\.(\d+)\.")
_UNUSED = re.compile(
    r"^vision_tower\.(post_layernorm|head)\.|^vision_tower\.embeddings\.position_ids$|\.rotary_emb\.inv_freq$"
)
_HEAD, _EMBEDDINGS = "llm.lm_head.weight", "llm.model.embed_tokens.weight"


def load_vila(root: Path, config: VILAConfig, *, dtype: torch.dtype | None, device: torch.device | str) -> VILAModel:
    """Returns the model in eval mode with the weights of a folder; None keeps the dtype of the language model's file.

    Raises:
        FileNotFoundError: A part has no weights.
        ValueError: A file is damaged, or weights are missing, unknown or of another shape: names them.
    """
    weights = rename(read_weights(root), config)
    with torch.device("meta"):
        model = VILAModel(config)
    check_weights(weights, expected_weights(model), root)
    dtype = dtype or weights[_EMBEDDINGS].dtype
    model.materialize({name: tensor.to(device, dtype) for name, tensor in weights.items()})
    return model.eval()


def rename(weights: Mapping[str, Tensor], config: VILAConfig) -> dict[str, Tensor]:
    """Returns the weights that are used, named as in `VILAModel`.

    The layers of the vision tower after the one whose states are used, its last norm and its pooling head are left
    out, as is the head of the language model where it is tied to the embeddings.
    """
    renamed = {_TOWER.sub("vision_tower.", name): tensor for name, tensor in weights.items()}
    if config.language.tie_word_embeddings:
        renamed.pop(_HEAD, None)
    return {name: tensor for name, tensor in renamed.items() if not _is_unused(name, config)}


def expected_weights(model: VILAModel) -> dict[str, Tensor]:
    """The weights that a checkpoint of a model must have: all, but not the head where it is tied to the embeddings."""
    tied = model.config.language.tie_word_embeddings
    return {name: tensor for name, tensor in model.state_dict().items() if not (tied and name == _HEAD)}


def _is_unused(name: str, config: VILAConfig) -> bool:
    layer = _LAYER.match(name)
    return bool(_UNUSED.search(name)) or (layer is not None and int(layer[1]) >= config.vision_layers)
