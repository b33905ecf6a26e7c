"""Depth growth: a model with more blocks that begins where a shallower one is (SANA-1.5, depth growth)."""

import dataclasses
import logging
from typing import TypeVar

from torch import Tensor, nn

from sana_train.growth.arrangement import Init, arrangement, check_target
from sana_train.growth.block_list import BlockList, block_list
from sana_train.growth.fingerprint import combined_hash, tensor_hashes
from sana_train.growth.plan import GrowthPlan, grown_hash
from sana_train.growth.proof import Run, greatest_change, outputs, velocity_run
from sana_train.growth.surgery import deeper

Model = TypeVar("Model", bound=nn.Module)
logger = logging.getLogger(__name__)


def grow_depth(
    model: Model,
    depth: int,
    *,
    drop_last: int = 2,
    init: Init = "partial_preservation",
    seed: int = 0,
    run: Run | None = None,
    check: bool = True,
    progress: bool = True,
) -> tuple[Model, GrowthPlan]:
    """Add blocks to a model in place, and say where each comes from.

    The first blocks stay what they are, parameters included, and are numbered anew; `model.config` counts the blocks,
    so that `save_pretrained` writes a model that loads. What growing changes in the output is measured in float32 and
    bfloat16. With "partial_preservation" or "interleaved" and nothing dropped it is not one bit. If anything is wrong,
    the model stays as it was.

    Args:
        model: holds its blocks in `model.blocks`, an nn.ModuleList, and counts them in `model.config.num_layers`. A
            block has `reset_parameters(generator)` and `zero_residuals()`.
        depth: blocks afterwards.
        drop_last: blocks left out at the end of the source. The paper leaves out 2, since the last ones are made for
            the output and hold the new ones back; the model then has to learn again what it could.
        init: what new blocks begin as, see `arrangement`. With "cyclic" and "block_replication" the model is another
            function at first.
        seed: of fresh blocks.
        run: `run(model, dtype)` returns the output on fixed inputs of a type, which the weights have in that call. None
            calls the model as `FlowMatching` does, where its configuration has in_channels, sample_size and
            caption_channels; else nothing is measured.
        check: whether to measure; without it nothing is refused either.
        progress: whether a bar counts blocks.

    Returns:
        The same model, and the plan whose `apply` does this again.

    Raises:
        ValueError: depth is not more than the model has, drop_last leaves nothing, the blocks cannot be grown, or the
            output changes where it must not.

    Source: SANA-1.5, depth growth.
    """
    held = block_list(model)
    held.check_depth()
    source = list(held.blocks)
    check_target(depth, source=len(source), drop_last=drop_last)
    sources = arrangement(init, kept=len(source) - drop_last, depth=depth)
    run = (run or velocity_run(model)) if check else None
    before = outputs(held, run) if run else None
    hashes = tensor_hashes(model)
    grown = deeper(source, sources, init=init, seed=seed, progress=progress)
    plan = GrowthPlan(
        depth=len(source),
        sources=sources,
        blocks=held.name,
        init=init,
        seed=seed,
        model=combined_hash(hashes),
        grown=grown_hash(held, hashes, grown, sources),
    )
    held.replace(grown)
    if run is None or before is None:
        return model, plan
    try:
        return model, _proved(held, plan, run, before)
    except BaseException:
        held.replace(source)
        raise


def _proved(held: BlockList, plan: GrowthPlan, run: Run, before: dict[str, Tensor]) -> GrowthPlan:
    change = greatest_change(before, outputs(held, run))
    logger.info("grown from %d to %d blocks: max |dy| %s", plan.depth, len(plan.sources), change)
    if plan.preserves and any(value != 0 for value in change.values()):
        raise ValueError(
            f"the grown model differs from its source by up to {change}, and {plan.init} with nothing dropped must not "
            f"change one bit: zero_residuals() of {type(held.blocks[-1]).__name__} leaves a branch that adds something"
        )
    return dataclasses.replace(plan, change=change)
