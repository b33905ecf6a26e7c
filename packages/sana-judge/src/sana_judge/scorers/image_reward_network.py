"""ImageReward's network: BLIP sees the image, its text encoder reads the prompt beside it, an MLP rates (section 3)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.blip.configuration_blip import BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from sana_judge.checkpoint_reading import check_weights

# Width of a head of the vision transformers of BLIP, base and large.
_HEAD_WIDTH = 64
# Rewards of the training set, to mean 0 and deviation 1.
_MEAN, _DEVIATION = 0.16717362830052426, 1.0333394966054072
# Trained with BLIP's contrastive loss and not part of the reward.
_UNUSED = re.compile(r"^blip\.(vision_proj|text_proj)\.|\.position_ids$")
_RENAMED = (
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision.encoder.layers.\1.layer_norm\2."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision.encoder.layers.\1.self_attn.qkv."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision.encoder.layers.\1.self_attn.projection."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision.encoder.layers.\1.mlp."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.", "mlp."),
)


class ImageRewardNetwork(nn.Module):
    """Vision transformer, text encoder with cross-attention, and five linear layers without anything in between."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig):
        super().__init__()
        side: Any = vision.image_size
        self.side: int = side  # pixels
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        width = text.hidden_size
        self.mlp = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Pixels (B, 3, S, S), tokens and mask (B, L) -> rewards (B,), of mean 0 and deviation 1 over people's."""
        seen = self.vision(pixels).last_hidden_state  # (B, patches + 1, width)
        whole = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
        read = self.text(
            input_ids=tokens, attention_mask=mask, encoder_hidden_states=seen, encoder_attention_mask=whole
        ).last_hidden_state  # (B, L, text width)
        rewards: Tensor = self.mlp(read[:, 0])[:, 0]  # (B,)
        return (rewards.float() - _MEAN) / _DEVIATION


def build_network(weights: Mapping[str, Tensor], med_config: Mapping[str, Any], source: Path) -> ImageRewardNetwork:
    """Returns the network of a checkpoint in eval mode, with its weights, in their dtype.

    Its sizes are those of the weights; `med_config` is the text encoder's configuration, BLIP's if empty.

    Raises:
        ValueError: Weights are missing, unknown or of another shape: names them.
    """
    renamed = rename(weights)
    try:
        vision = _vision_config(renamed)
    except KeyError as error:
        raise ValueError(f"{source} is not a checkpoint of ImageReward: it lacks {error}") from error
    text = BlipTextConfig(**_text_fields(med_config), encoder_hidden_size=vision.hidden_size, is_decoder=True)
    with torch.device("meta"):
        network = ImageRewardNetwork(vision, text)
    check_weights(renamed, network.state_dict(), source)
    network.load_state_dict(renamed, strict=False, assign=True)
    embeddings: Any = network.text.embeddings
    embeddings.register_buffer("position_ids", torch.arange(text.max_position_embeddings)[None], persistent=False)
    return network.eval()


def rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights that make the reward, from BLIP's own names to those of `ImageRewardNetwork`."""
    renamed = {}
    for name, tensor in weights.items():
        if not _UNUSED.search(name):
            for pattern, replacement in _RENAMED:
                name = re.sub(pattern, replacement, name)
            renamed[name] = tensor
    return renamed


def _vision_config(weights: Mapping[str, Tensor]) -> BlipVisionConfig:
    width, _, patch, _ = weights["vision.embeddings.patch_embedding.weight"].shape
    patches = weights["vision.embeddings.position_embedding"].shape[1] - 1
    layers = {match[1] for name in weights if (match := re.match(r"vision\.encoder\.layers\.(\d+)\.", name))}
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=weights["vision.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=max(width // _HEAD_WIDTH, 1),
        image_size=patch * round(patches**0.5),
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )


def _text_fields(med_config: Mapping[str, Any]) -> dict[str, Any]:
    """What med_config.json, written for BLIP's own class, means for transformers'; BLIP's values where it is silent."""
    blip = {
        "vocab_size": 30524,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    return {name: med_config.get(name, value) for name, value in blip.items()}
