"""VILA: SigLIP sees tiles, a projector turns 3x3 patches into one word, Qwen2 reads the words (NVILA, section 2)."""

import copy
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel
from transformers.cache_utils import Cache
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from sana_judge.float32_logits import float32_logits
from sana_judge.vila.config import VILAConfig
from sana_judge.vila.saving import save_model


class VILAModel(nn.Module):
    """The three networks of a judge, with the names of the public checkpoints' folders.

    Tiles T, vectors per tile P, sequences B of length L, width D of the language model, vocabulary V.
    """

    def __init__(self, config: VILAConfig):
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config)
        self.mm_projector = Projector(config.vision.hidden_size, config.language.hidden_size)
        self.llm = Qwen2ForCausalLM(config.language)
        self.llm.model.rotary_emb = _rotary_embedding(config.language)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.llm.model.embed_tokens.weight.device
        return device

    def encode_tiles(self, tiles: Tensor) -> Tensor:
        """Returns what the language model sees of tiles: (T, 3, S, S), uint8 -> (T, P, D)."""
        x = self.encode_patches(tiles)  # (T, patches, width)
        features: Tensor = self.mm_projector(x)  # (T, P, D)
        return features

    def encode_patches(self, tiles: Tensor) -> Tensor:
        """Returns what the vision tower sees in each patch: (T, 3, S, S), uint8 -> (T, patches, width)."""
        x = tiles.float().div_(255).sub_(0.5).div_(0.5)  # (T, 3, S, S) in [-1, 1]
        states: Tensor = self.vision_tower(x)  # (T, patches, width)
        return states

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Returns the embeddings of tokens: (L,) -> (L, D)."""
        embeddings: Tensor = self.llm.model.embed_tokens(torch.tensor(tokens, device=self.device))  # (L, D)
        return embeddings

    def embed_image(self, features: Tensor, newline: Sequence[int]) -> Tensor:
        """Joins the vectors of one image's tiles (T, P, D) into a sequence (T * (P + 2) - 1, D).

        After each tile comes a newline that belongs to the image, and between tiles one that belongs to the text.
        """
        break_ = self.embed(newline)  # (1, D)
        breaks = break_.repeat(2, 1).expand(len(features), -1, -1)  # (T, 2, D)
        return torch.cat([features, breaks], dim=1).flatten(0, 1)[: -len(break_)]

    def read(self, sequences: Sequence[Tensor], *, after: Cache | None = None) -> Tensor:
        """Returns the state at the end of each sequence: B times (L_b, D) -> (B, D).

        Shorter sequences are padded on the right. Attention looks only to the left, so no padding is ever seen, and
        equal lengths need none. `after` is what every sequence continues, from `remember`; it stays as it is.
        """
        x = pad_sequence(list(sequences), batch_first=True)  # (B, L, D)
        if after is not None:
            after = copy.deepcopy(after)
            after.batch_repeat_interleave(len(sequences))
        states = self.llm.model(inputs_embeds=x, past_key_values=after, use_cache=after is not None).last_hidden_state
        ends = torch.tensor([len(sequence) - 1 for sequence in sequences], device=x.device)
        last: Tensor = states[torch.arange(len(ends), device=x.device), ends]  # (B, D)
        return last

    def remember(self, prefix: Tensor) -> Cache:
        """Reads the beginning (L, D) that several sequences share and returns its keys and values."""
        cache: Cache = self.llm.model(inputs_embeds=prefix[None], use_cache=True).past_key_values
        return cache

    def logits(self, states: Tensor) -> Tensor:
        """Returns the logits of the next word: (B, D) -> (B, V), in float32 whatever the dtype of the weights."""
        return float32_logits(states, self.llm.lm_head.weight)

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Writes the weights and their configuration; the tokenizer and judge.json are `VILAJudge.save_pretrained`'s.

        Raises:
            ValueError: The language model is quantized.
        """
        save_model(Path(directory), self.config, self.state_dict())

    def materialize(self, weights: dict[str, Tensor]) -> None:
        """Gives a model built on the meta device its weights, and computes what checkpoints do not hold."""
        self.load_state_dict(weights, strict=False, assign=True)
        if self.config.language.tie_word_embeddings:
            self.llm.lm_head.weight = self.llm.model.embed_tokens.weight
        positions = self.vision_tower.embeddings.position_embedding.num_embeddings
        self.vision_tower.embeddings.position_ids = torch.arange(positions, device=self.device)[None]
        self.llm.model.rotary_emb = _rotary_embedding(self.config.language).to(self.device)


class VisionTower(nn.Module):
    """SigLIP up to the layer whose states are used; what comes after it is never built."""

    def __init__(self, config: VILAConfig):
        super().__init__()
        fields = {**config.vision.to_dict(), "num_hidden_layers": config.vision_layers, "vision_use_head": False}
        model = SiglipVisionModel(SiglipVisionConfig(**fields))
        model = getattr(model, "vision_model", model)  # transformers 4 has one module more in between
        self.embeddings = model.embeddings
        self.encoder = model.encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (T, 3, S, S) -> states of the patches (T, patches, width)."""
        x = self.embeddings(pixels)  # (T, patches, width)
        states: Tensor = self.encoder(inputs_embeds=x).last_hidden_state  # (T, patches, width)
        return states


class Projector(nn.Module):
    """From 3x3 patches of the vision tower to one vector of the language model (mlp_downsample_3x3_fix)."""

    def __init__(self, vision_width: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            DownSample3x3(),
            nn.LayerNorm(9 * vision_width),
            nn.Linear(9 * vision_width, 3 * vision_width),
            nn.GELU(),
            nn.LayerNorm(3 * vision_width),
            nn.Linear(3 * vision_width, width),
            nn.GELU(),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """States of the patches (T, patches, vision_width) -> (T, P, width)."""
        projected: Tensor = self.layers(x)  # (T, P, width)
        return projected


class DownSample3x3(nn.Module):
    """Joins 3x3 neighbours into one vector, row by row, after padding right and below with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """x (T, side * side, C) -> (T, ceil(side / 3)**2, 9 * C)."""
        tiles, patches, channels = x.shape
        side = math.isqrt(patches)
        pad = -side % 3
        cells = (side + pad) // 3
        x = F.pad(x.view(tiles, side, side, channels), (0, 0, 0, pad, 0, pad))
        x = x.view(tiles, cells, 3, cells, 3, channels).transpose(2, 3)  # (T, cells, cells, 3, 3, C)
        return x.reshape(tiles, cells * cells, 9 * channels)


def _rotary_embedding(config: Qwen2Config) -> Qwen2RotaryEmbedding:
    """With frequencies that are float16 numbers: VILA's code casts them with the weights.

    1,400 tokens on, the phases differ from exact ones by up to 0.25 rad, which is more than all other rounding.
    """
    rotary = Qwen2RotaryEmbedding(config=config)
    rotary.register_buffer("inv_freq", rotary.inv_freq.half().float(), persistent=False)
    return rotary
