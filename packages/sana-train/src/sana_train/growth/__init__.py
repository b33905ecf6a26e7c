"""Depth growth: a deeper model that begins where a shallower one is, and goes on training (SANA-1.5, depth growth)."""

from sana_train.growth.arrangement import IDENTITIES, INITS, Init, arrangement
from sana_train.growth.carried_state import grow_named, grow_optimizer
from sana_train.growth.fingerprint import model_hash
from sana_train.growth.growing import grow_depth
from sana_train.growth.plan import GrowthPlan
from sana_train.growth.runs import grow_run

__all__ = [
    "IDENTITIES",
    "INITS",
    "GrowthPlan",
    "Init",
    "arrangement",
    "grow_depth",
    "grow_named",
    "grow_optimizer",
    "grow_run",
    "model_hash",
]
