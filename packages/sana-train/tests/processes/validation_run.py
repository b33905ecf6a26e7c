"""A validation that a test starts in two processes: torchrun validation_run.py FOLDER writes what each one sees."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from sana_train.flow_matching import FlowMatching
from sana_train.validation import FlowValidation


class Counted(nn.Module):
    """Guesses a quarter everywhere and counts the passes."""

    def __init__(self) -> None:
        super().__init__()
        self.guess = nn.Parameter(torch.tensor(0.25))
        self.passes = 0

    def forward(self, latents, timestep, caption, caption_mask):
        self.passes += 1
        return self.guess.expand(latents.shape)


def measure() -> tuple[dict[str, float], int]:
    """The losses of five samples, two at a time, and the passes that this process made."""
    latents = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    batch = {"latents": latents, "caption": torch.zeros(5, 4, 5), "caption_mask": torch.ones(5, 4)}
    model = Counted()
    return FlowValidation(batch, objective=FlowMatching(), bins=5, batch_size=2)(model), model.passes


if __name__ == "__main__":
    alone, _ = measure()
    dist.init_process_group("gloo")
    together, passes = measure()
    text = json.dumps({"alone": alone, "together": together, "passes": passes})
    (Path(sys.argv[1]) / f"{dist.get_rank()}.json").write_text(text)
    dist.destroy_process_group()
