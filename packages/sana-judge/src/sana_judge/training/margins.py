"""A judge as training sees it: pictures and questions in, one margin per question out, in one forward."""

from os import PathLike
from pathlib import Path

from torch import Tensor, nn

from sana_judge.judge_facts import JudgeFacts
from sana_judge.training.low_rank import merged_weights
from sana_judge.training.questions import PADDING, PICTURE
from sana_judge.vila.judge import VILAJudge
from sana_judge.vila.saving import save_judge


class MarginModel(nn.Module):
    """VILA and the two rows of its head that answer.

    Pictures B with T tiles, questions per picture K of length L, vectors per tile P, width D of the language model.
    Each picture goes through the vision tower once, however many questions there are about it.

    Args:
        judge: whose networks they are; they change as this model is trained.
    """

    def __init__(self, judge: VILAJudge) -> None:
        super().__init__()
        self.model = judge.model
        self.questions = judge.questions
        self.tokenizer = judge.tokenizer
        self.facts = JudgeFacts(question=judge.facts.question)  # a calibration holds for the weights it was fitted to

    def forward(self, tiles: Tensor, tile_counts: Tensor, tokens: Tensor) -> Tensor:
        """tiles (B, T, 3, S, S), tile_counts (B,), tokens (B, K, L) -> logit_yes - logit_no (B, K) in fp32.

        See `QuestionBatcher` for what they hold; where there is no question the margin is 0.
        """
        features = self.model.encode_tiles(tiles[is_tile(tiles, tile_counts)])  # (all tiles, P, D)
        return self.margins(self.read(features, tile_counts, tokens), tokens)  # (B, K)

    def read(self, features: Tensor, tile_counts: Tensor, tokens: Tensor) -> Tensor:
        """features (all tiles, P, D) -> states of the language model (questions, L, D), rows without one left out."""
        asked = (tokens != PADDING).any(dim=-1)  # (B, K)
        x = self.model.llm.model.embed_tokens(tokens[asked].clamp(min=0))  # (questions, L, D)
        x = _with_pictures(x, features.to(x.dtype), tokens, tile_counts)  # (questions, L, D)
        states: Tensor = self.model.llm.model(inputs_embeds=x, use_cache=False).last_hidden_state
        return states

    def margins(self, states: Tensor, tokens: Tensor) -> Tensor:
        """states (questions, L, D) -> margins (B, K)."""
        lengths = (tokens != PADDING).sum(dim=-1)  # (B, K)
        asked = lengths > 0
        ends = (lengths[asked] - 1)[:, None, None].expand(-1, 1, states.shape[-1])
        last = states.gather(1, ends).squeeze(1).float()  # (questions, D)
        head = self.model.llm.lm_head.weight
        direction = head[self.questions.yes].float() - head[self.questions.no].float()  # (D,)
        margins = last.new_zeros(asked.shape)
        # Not a matrix product: autocast would round it, and what matters is which of two margins is larger.
        margins[asked] = (last * direction).sum(dim=-1)
        return margins  # (B, K)

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Writes a judge that `VILAJudge.from_pretrained` reads, low-rank updates added to the weights they change."""
        weights = merged_weights(self.model)
        save_judge(Path(directory), self.model.config, weights, tokenizer=self.tokenizer, facts=self.facts)


def is_tile(tiles: Tensor, tile_counts: Tensor) -> Tensor:
    """Which of the padded tiles (B, T, ...) are there: (B, T)."""
    return tile_counts.new_ones(tiles.shape[:2]).cumsum(dim=1) <= tile_counts[:, None]


def _with_pictures(x: Tensor, features: Tensor, tokens: Tensor, tile_counts: Tensor) -> Tensor:
    """Put each picture's vectors, in order, where its questions (questions, L, D) have a place for them."""
    vectors = features.flatten(0, 1)  # (all tiles * P, D)
    per_tile = features.shape[1]
    first = (tile_counts.cumsum(0) - tile_counts) * per_tile  # (B,) the picture's first vector
    seen = tokens == PICTURE  # (B, K, L)
    which = (first[:, None, None] + seen.cumsum(dim=-1) - 1)[seen]  # in the order of the questions
    asked = (tokens != PADDING).any(dim=-1)
    return x.masked_scatter(seen[asked][..., None], vectors[which])
