"""CLIP: images and texts as vectors of one space (Radford et al. 2021, section 2.3)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import CLIPModel

CHECKPOINT = "openai/clip-vit-large-patch14"


@torch.inference_mode()
def image_features(model: CLIPModel, pixels: Tensor) -> Tensor:
    """Returns what CLIP sees in pixels (B, 3, S, S): (B, D), float32."""
    seen = model.vision_model(pixels.to(model.device, model.dtype)).pooler_output
    features: Tensor = model.visual_projection(seen)
    return features.float()


@torch.inference_mode()
def text_features(model: CLIPModel, tokens: Mapping[str, Tensor]) -> Tensor:
    """Returns what CLIP reads in tokens, whose input_ids and attention_mask are (B, L): (B, D), float32."""
    ids, mask = (tokens[name].to(model.device) for name in ("input_ids", "attention_mask"))
    features: Tensor = model.text_projection(model.text_model(input_ids=ids, attention_mask=mask).pooler_output)
    return features.float()
