"""What a judge learns from: each answer on its own, and pictures of one prompt against each other."""

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class MarginObjective:
    """Binary cross-entropy on the margin, plus a logistic loss on pairs of one group with different labels.

    A margin is logit_yes - logit_no, so its sigmoid is P(yes) against no. Best-of-N only compares pictures of one
    prompt: the pairwise term asks for exactly that, log(1 + exp(margin of the worse - margin of the better)).

    Args:
        pairwise: weight of the second term; pairs are those of one batch.
    """

    def __init__(self, *, pairwise: float = 0.0) -> None:
        if not 0 <= pairwise < math.inf:
            raise ValueError(f"pairwise is {pairwise}; it must be a finite weight, 0 for none")
        self.pairwise = pairwise

    def __call__(self, model: nn.Module, batch: dict[str, Any], draws: object) -> Tensor:
        """The loss of a batch of `QuestionBatcher`; nothing is drawn."""
        return self.loss(model(batch["tiles"], batch["tile_counts"], batch["tokens"]), batch)

    def loss(self, margins: Tensor, batch: dict[str, Any]) -> Tensor:
        """The loss of margins (B, K)."""
        asked = ~batch["labels"].isnan()
        margins, labels = margins[asked], batch["labels"][asked]  # (questions,)
        loss = F.binary_cross_entropy_with_logits(margins, labels)
        if self.pairwise:
            loss = loss + self.pairwise * pairwise_loss(margins, labels, batch["groups"][asked])
        return loss


def pairwise_loss(margins: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """Mean over all pairs of a group where the first has the higher label; 0 where there is none. All are (N,)."""
    better = (groups[:, None] == groups) & (labels[:, None] > labels)  # (N, N)
    losses = F.softplus(margins - margins[:, None])[better]  # (pairs,)
    return losses.sum() / max(len(losses), 1)
