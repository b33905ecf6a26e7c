"""Prompts that a guard looks at before anything is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GUARD_MODEL = "google/shieldgemma-2b"


def check_prompts(
    prompts: Sequence[str],
    *,
    model: str = GUARD_MODEL,
    threshold: float = 0.5,
    device: "torch.device | str | None" = None,
) -> None:
    """Asks ShieldGemma about every prompt; the guard's memory is free again when this returns.

    Args:
        prompts: What is to be drawn.
        model: Folder or Hub repository of the guard.
        threshold: The least probability that is a violation, in (0, 1].
        device: Where it runs; None is the first GPU, else the CPU.

    Raises:
        FileNotFoundError: The guard's weights are not there: says where they are and whose terms they have.
        ValueError: A prompt violates a policy: names the prompt, the policies and their probabilities.
    """
    from sana.devices import usable_device
    from sana_judge import PromptGuard

    guard = PromptGuard.from_pretrained(model, threshold=threshold, device=usable_device(device))
    for prompt in dict.fromkeys(prompts):
        if violations := guard(prompt).violations:
            policies = ", ".join(f"{policy} ({p:.2f})" for policy, p in violations.items())
            raise ValueError(
                f"the guard refuses {prompt!r}: {policies}; its threshold is {threshold}. Nothing was drawn"
            )
