"""Block importance: how far a block turns its tokens, over prompts and time steps (SANA-1.5, depth pruning)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sana_scale.depth.block_hooks import BlockHooks
from sana_scale.depth.block_list import check_blocks
from sana_scale.depth.fingerprint import calibration_hash
from sana_scale.depth.measurements import Grid, Measurements


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockImportance:
    """What `block_importance` found for L blocks and T time bins; float32 tensors on the CPU.

    Attributes:
        values: 1 - the mean cosine similarity of a block's input and output tokens (L,).
        standard_errors: of `values`, over units (L,); NaN where there was only one.
        norm_change: mean of |output - input| / |input| per token (L,): the cosine does not see growth.
        branches: per branch, the values (L,) of the block's output without the branch against that with it.
        parts: per part of the batch, the values (L,) of its samples alone.
        time_edges: the bins' borders (T+1,), in the model's timesteps.
        time_weights: what each bin counts in `values` (T,); they sum to 1.
        by_time: values per bin (L, T); NaN where nothing was measured.
        by_time_standard_errors: theirs (L, T).
        samples: samples that passed each block, time steps counted one by one.
        units: independent units behind the standard errors, such as prompts.
        window: consecutive blocks that were taken together; values[i] is then of blocks i to i + window - 1.
        calibration: hash of what it was measured on, or None.
    """

    values: Tensor
    standard_errors: Tensor
    norm_change: Tensor
    branches: Mapping[str, Tensor]
    parts: Mapping[str, Tensor]
    time_edges: Tensor
    time_weights: Tensor
    by_time: Tensor
    by_time_standard_errors: Tensor
    samples: int
    units: int
    window: int
    calibration: str | None


def block_importance(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    run: Callable[[], object],
    *,
    model: nn.Module | None = None,
    bins: int = 10,
    time_span: float = 1000.0,
    sampler_timesteps: Sequence[float] | None = None,
    branches: Sequence[str] = (),
    batch_parts: Sequence[str] = (),
    window: int = 1,
    calibration: Any = None,
    progress: bool = True,
) -> BlockImportance:
    """Measure 1 - E[cos(input, output)] of each block while `run()` does forward passes.

    The cosine is taken along the last axis (channels) for every token; tokens are averaged within a sample, then
    samples and time steps. Blocks may be of any kind that keeps the shape of its tokens (B, ..., D), the first
    tensor it is given or `hidden_states`; of a tuple the first tensor of that shape is the output.

    Args:
        blocks: what to measure: an nn.ModuleList such as `model.blocks`.
        run: does the forwards, best as sampling does, with 100 diverse prompts. As a generator function it ends a unit
            (a prompt) at each `yield`, and standard errors are over units; else each sample of each forward
            is one, which is too sure of itself where forwards are steps of one image.
        model: whose argument `timestep` sorts samples into `bins`; None measures without time.
        bins: equal parts of [0, time_span], 1 to 100.
        time_span: the largest timestep; 1000, for Sprint 1.
        sampler_timesteps: the timesteps of the sampler in use: bins are weighted by how many fall into them. None
            weights by what was measured, which is the same where `run` samples.
        branches: names of modules within each block, such as ("self_attn", "cross_attn", "mix_ffn"): each is
            silenced in turn, at the price of one more forward of the block.
        batch_parts: names of the equal parts that a batch consists of, ("unconditional", "conditional") under
            classifier-free guidance.
        window: this many consecutive blocks count as one, for removing a contiguous run.
        calibration: whatever describes the data (prompts, seeds, steps), as JSON; its hash goes into plans.
        progress: whether a bar counts the units of a generator.

    Raises:
        ValueError: a block was never reached, changed the shape of its tokens or gave NaN; or the sampler visits a bin
            in which nothing was measured.

    Source: SANA-1.5, depth pruning; ShortGPT (arXiv 2403.03853), section 3.2.
    """
    check_blocks(blocks)
    _check_arguments(blocks, model, branches, window, sampler_timesteps)
    grid = Grid(
        blocks=len(blocks) - window + 1,
        bins=bins if model is not None else 1,
        span=time_span,
        parts=len(batch_parts) or 1,
        quantities=2 + len(branches),
    )
    digest = None if calibration is None else calibration_hash(calibration)
    measured = Measurements(grid)
    hooks = BlockHooks(list(blocks), measured.observe, model=model, branches=branches, window=window)
    with torch.no_grad(), hooks:
        result = run()
        if isinstance(result, Iterator):
            measured.by_unit = True
            for _ in tqdm(result, desc="block importance", unit=" units", disable=not progress):
                measured.end_unit()
        measured.end_unit()
    measured.check_reached()
    return _summary(measured, sampler_timesteps, branches, batch_parts, window=window, calibration=digest)


def _check_arguments(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    model: nn.Module | None,
    branches: Sequence[str],
    window: int,
    sampler_timesteps: Sequence[float] | None,
) -> None:
    if not 1 <= window <= len(blocks):
        raise ValueError(f"window is {window}; it must be 1 to {len(blocks)}, the number of blocks")
    if window > 1 and branches:
        raise ValueError(f"window is {window} and branches {tuple(branches)}: branches are of single blocks, window=1")
    if sampler_timesteps is not None and model is None:
        raise ValueError("sampler_timesteps weight time bins, which need model= to read the timestep of a forward from")
    for index, block in enumerate(blocks):
        children = dict(block.named_modules())
        if missing := [branch for branch in branches if branch not in children]:
            names = ", ".join(name for name, _ in block.named_children())
            raise ValueError(f"block {index} has no module {missing[0]!r} to take as a branch; it has {names}")


def _summary(
    measured: Measurements,
    sampler_timesteps: Sequence[float] | None,
    branches: Sequence[str],
    batch_parts: Sequence[str],
    *,
    window: int,
    calibration: str | None,
) -> BlockImportance:
    grid = measured.grid
    time_weights = measured.time_weights(sampler_timesteps)  # (L, T)
    means, errors = measured.mean(time_weights)  # (L, Q)
    single_bins = [measured.mean(measured.one_bin(bin)) for bin in range(grid.bins)]
    parts = [measured.mean(time_weights, part=part)[0][:, 0] for part in range(len(batch_parts))]
    return BlockImportance(
        values=means[:, 0],
        standard_errors=errors[:, 0],
        norm_change=means[:, 1],
        branches={name: means[:, 2 + place] for place, name in enumerate(branches)},
        parts=dict(zip(batch_parts, parts, strict=True)),
        time_edges=torch.linspace(0, grid.span, grid.bins + 1),
        time_weights=time_weights.mean(0).float(),
        by_time=torch.stack([mean[:, 0] for mean, _ in single_bins], 1),
        by_time_standard_errors=torch.stack([error[:, 0] for _, error in single_bins], 1),
        samples=int(measured.moments.count.sum(1).max()),
        units=int(measured.moments.units.max()),
        window=window,
        calibration=calibration,
    )
