"""What a judge knows in the middle of its training: loss and order on prompts that it does not learn from."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sana_judge.training.measures import auc


class JudgeValidation:
    """Measures a model on the same batches every time.

    Args:
        batches: such as `ExampleBatches` of the held-back examples.
        steps: how many of them.
    """

    def __init__(self, batches: Callable[[int], dict[str, Any]], *, steps: int) -> None:
        self.batches = batches
        self.steps = steps

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Returns "val/loss", the cross-entropy of the answers, and "val/auc", both without negative prompts."""
        device = next(model.parameters()).device
        answers = [self._answers(model, self.batches(step), device) for step in range(self.steps)]
        margins, labels = (torch.cat(column) for column in zip(*answers, strict=True))
        loss = F.binary_cross_entropy_with_logits(margins, labels)
        return {"val/loss": loss.item(), "val/auc": auc(margins.tolist(), labels.tolist())}

    def _answers(self, model: nn.Module, batch: dict[str, Any], device: torch.device) -> Sequence[Tensor]:
        tensors = [batch[name].to(device) for name in ("tiles", "tile_counts", "tokens")]
        return model(*tensors)[:, 0].float().cpu(), batch["labels"][:, 0]
