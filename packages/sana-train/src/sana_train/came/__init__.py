"""CAME and CAME-8bit: optimizers whose state is a matrix of momentum and four vectors."""

from sana_train.came.memory import optimizer_state_bytes
from sana_train.came.optimizer import CAME, CAME8bit

__all__ = ["CAME", "CAME8bit", "optimizer_state_bytes"]
