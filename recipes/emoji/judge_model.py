"""The emoji judge: VILA's architecture at four million parameters, and what it learns to answer by."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, SiglipVisionConfig

from recipes.emoji.detector_scenes import NO_COLOR
from recipes.emoji.vocabulary import COLORS, THINGS
from sana_judge import JudgeFacts, VILAConfig, VILAJudge, VILAModel
from sana_judge.training import MarginModel, MarginObjective
from sana_judge.training.questions import PADDING, PICTURE

# 12 patches of 12 px a side, joined three by three: 16 words of a quarter of a side each.
PATCHES = 12
_TILE = 144
# Weights of what the judge learns beside its answers.
SEEING = 0.5
SAYING = 0.3
MAX_TOKENS = 128
WORDING = "{prompt}"


def emoji_judge_config(vocabulary: int) -> VILAConfig:
    """The judge's shape; pictures of any size are squeezed into one tile."""
    vision = SiglipVisionConfig(
        hidden_size=160,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=5,
        image_size=_TILE,
        patch_size=_TILE // PATCHES,
    )
    language = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
    )
    return VILAConfig(
        vision=vision,
        language=language,
        vision_layers=vision.num_hidden_layers,
        image_aspect_ratio="resize",
        max_tiles=1,
    )


class EmojiJudge(MarginModel):
    """A judge with a head that names the object and its colour in every patch; it is left out when the judge is saved.

    A yes or no says little about a picture that nobody has taught to see, and in words that nobody has taught to use:
    the patches' names are what the vision tower learns to see from, and true prompts what the language model learns
    to speak from.
    """

    def __init__(self, judge: VILAJudge) -> None:
        super().__init__(judge)
        self.patch_head = nn.Linear(judge.model.config.vision.hidden_size, len(THINGS) + 1 + len(COLORS))

    def learn(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Margins (B, K), logits of the patches (B * P * P, objects + colours), states (questions, L, D)."""
        seen = self.model.encode_patches(batch["tiles"][:, 0])  # (B, P * P, width)
        states = self.read(self.model.mm_projector(seen), batch["tile_counts"], batch["tokens"])
        return self.margins(states, batch["tokens"]), self.patch_head(seen).float().flatten(0, 1), states


class EmojiObjective:
    """The margins' loss, the patches' cross-entropy of object and colour, and that of the words of true prompts."""

    def __init__(self, *, pairwise: float = 0.0) -> None:
        self.answering = MarginObjective(pairwise=pairwise)

    def __call__(self, model: nn.Module, batch: dict[str, Any], draws: object) -> Tensor:
        """The loss of a batch of `JudgeBatches`; nothing is drawn."""
        assert isinstance(model, EmojiJudge)
        margins, patches, states = model.learn(batch)
        loss = self.answering.loss(margins, batch)
        loss = loss + SEEING * seeing_loss(patches, batch["objects"].flatten(), batch["colors"].flatten())
        true = batch["labels"].flatten() == 1
        words = model.model.llm.lm_head(states[true])  # (true, L, V)
        return loss + SAYING * saying_loss(words, batch["tokens"].flatten(0, 1)[true])


def seeing_loss(patches: Tensor, objects: Tensor, colors: Tensor) -> Tensor:
    """Cross-entropy of the object in each patch, and of the colour where one is known: (N, objects + colours), (N,)."""
    object_logits, color_logits = patches.split([len(THINGS) + 1, len(COLORS)], dim=-1)
    color = F.cross_entropy(color_logits, colors, ignore_index=NO_COLOR, reduction="sum")
    return F.cross_entropy(object_logits, objects) + color / (colors != NO_COLOR).sum().clamp(min=1)


def saying_loss(words: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of each word after the picture, given those before it: (N, L, V), (N, L)."""
    after = (tokens == PICTURE).cumsum(dim=1) == (tokens == PICTURE).sum(dim=1, keepdim=True)  # (N, L)
    following = tokens[:, 1:].masked_fill(~after[:, :-1] | (tokens[:, 1:] < 0), PADDING)
    return F.cross_entropy(words[:, :-1].float().flatten(0, 1), following.flatten(), ignore_index=PADDING)


def new_emoji_judge(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> EmojiJudge:
    """A judge with random weights, the same for a seed."""
    torch.manual_seed(seed)
    model = VILAModel(emoji_judge_config(len(tokenizer)))
    return EmojiJudge(VILAJudge(model, tokenizer, facts=JudgeFacts(question=WORDING)))
