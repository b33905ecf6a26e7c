"""Everything a checkpoint holds: tensors by name, and the facts beside them."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sana_train.checkpointing.optimizer_state import (
    create_state,
    load_state_numbers,
    optimizer_changes,
    optimizer_settings,
    state_numbers,
    state_tensors,
    with_state,
)
from sana_train.checkpointing.settings_changes import settings_changes
from sana_train.config import TrainConfig
from sana_train.ema import EMA
from sana_train.guards import SpikeGuard


class RunState:
    """The state of a run apart from its step: weights, optimizer, average, guard, and the steps to pass over.

    Attributes:
        passed_over: steps whose batches made training fail and are left out from now on.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        ema: EMA | None,
        guard: SpikeGuard,
        *,
        config: TrainConfig,
        settings: Mapping[str, Any],
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.ema = ema
        self.guard = guard
        self.config = config
        self.passed_over: set[int] = set()
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._optimizer_settings = optimizer_settings(optimizer)  # before a schedule changes the learning rates

    def tensors(self) -> dict[str, Tensor]:
        """The run's own tensors and DTensors, not copies."""
        model = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        optimizer = {f"optimizer.{k}": v for k, v in state_tensors(self.model, self.optimizer).items()}
        averages = {f"average.{k}": v for k, v in self.ema.averages.items()} if self.ema else {}
        return model | optimizer | averages

    def blank(self, facts: dict[str, Any]) -> dict[str, Tensor]:
        """`tensors` as a checkpoint with these `facts` has them, for it to be read into."""
        create_state(self.model, self.optimizer, facts["stepped"])
        return self.tensors()

    def facts(self) -> dict[str, Any]:
        """The rest, as JSON."""
        return {
            "config": self.config.as_json(),
            "optimizer": self._optimizer_settings,
            "settings": self._settings,
            "stepped": with_state(self.model, self.optimizer),
            "optimizer_numbers": state_numbers(self.model, self.optimizer),
            "average_updates": self.ema.updates if self.ema else 0,
            "guard": self.guard.state_dict(),
            "passed_over": sorted(self.passed_over),
        }

    def load_facts(self, facts: dict[str, Any]) -> None:
        """Put back what `facts` gave, once the tensors are read."""
        load_state_numbers(self.model, self.optimizer, facts["optimizer_numbers"])
        if self.ema:
            self.ema.updates = facts["average_updates"]
        self.guard.load_state_dict(facts["guard"])
        self.passed_over |= set(facts["passed_over"])

    def changes(self, facts: dict[str, Any]) -> list[str]:
        """How the run was started otherwise, each as "name before -> now"."""
        of_optimizer = optimizer_changes(facts["optimizer"], self._optimizer_settings)
        others = settings_changes(facts["settings"], self._settings)
        return self.config.changes_since(facts["config"]) + of_optimizer + others
