"""A training run that goes on with a deeper model: weights, averages and optimizer state of its checkpoint, grown."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sana_train.checkpointing.checkpoint import CheckpointError, Checkpoints, Saved
from sana_train.checkpointing.model_folder import ModelFolder
from sana_train.checkpointing.tensor_index import read_index
from sana_train.distributed import world_size
from sana_train.folders import replace_folder
from sana_train.growth.arrangement import Init
from sana_train.growth.carried_state import grow_named
from sana_train.growth.growing import grow_depth
from sana_train.growth.plan import GrowthPlan
from sana_train.growth.proof import Run
from sana_train.guards import SpikeGuard

Model = TypeVar("Model", bound=nn.Module)

PLAN = "growth.json"


def grow_run(
    run_dir: str | os.PathLike[str],
    grown_dir: str | os.PathLike[str],
    model: Model,
    depth: int,
    *,
    part: str = "",
    drop_last: int = 2,
    init: Init = "partial_preservation",
    seed: int = 0,
    run: Run | None = None,
    check: bool = True,
    progress: bool = True,
) -> tuple[Model, GrowthPlan]:
    """Make a run folder whose newest checkpoint is that of `run_dir`, grown; `Trainer.resume` then goes on with it.

    Old blocks keep their optimizer state and averages, at the same step of the run. New ones begin with none and with
    their first weights as average. The window of the spike guard starts anew, as the loss may rise. Since a grown
    model's optimizer differs, resume with `allow_changes=True` the first time, with an optimizer from `grow_optimizer`.

    Args:
        run_dir: of a run of `Trainer`.
        grown_dir: made here, whole or not at all: `checkpoints/`, `model/` with the averaged weights, and the plan,
            `growth.json`.
        model: as the run's model was made; it takes the checkpoint's weights and is grown in place.
        depth: blocks afterwards.
        part: the submodule that has the blocks, such as "transformer", where the model itself has none.
        drop_last: see `grow_depth`, as all arguments below.
        init: see `grow_depth`.
        seed: see `grow_depth`.
        run: see `grow_depth`; it is given the part.
        check: see `grow_depth`.
        progress: see `grow_depth`.

    Returns:
        The same model, and the plan.

    Raises:
        CheckpointError: there is no good checkpoint, or it is of another model.
        FileExistsError: `grown_dir` is not empty.
        ValueError: the model cannot be grown so.
    """
    grown = Path(grown_dir)
    if grown.exists() and (not grown.is_dir() or any(grown.iterdir())):
        raise FileExistsError(f"{grown} is not empty: give a folder that does not exist yet")
    if world_size() > 1:
        raise ValueError(f"grow_run was called in {world_size()} processes: grow in one, then train with all of them")
    saved, state = _read(Path(run_dir))
    _load_weights(model, state, saved)
    _, plan = grow_depth(
        model.get_submodule(part),
        depth,
        drop_last=drop_last,
        init=init,
        seed=seed,
        run=run,
        check=check,
        progress=progress,
    )
    tensors = _grown_tensors(model, state, plan, part)
    facts = _grown_facts(saved.facts, plan, part)

    def write(folder: Path) -> None:
        Checkpoints(folder / "checkpoints", keep=1).save(saved.step, tensors, facts)
        averages = {name.removeprefix("average."): x for name, x in tensors.items() if name.startswith("average.")}
        ModelFolder(model).write(folder / "model", model, averages)
        plan.save(folder / PLAN)

    replace_folder(grown, write)
    return model, plan


def _read(run_dir: Path) -> tuple[Saved, dict[str, Tensor]]:
    checkpoints = Checkpoints(run_dir / "checkpoints", keep=1)
    saved = checkpoints.newest()
    if saved is None:
        raise CheckpointError(f"{run_dir} holds no checkpoint: give the folder of a run")
    entries: Mapping[str, Any] = read_index(saved.path).state_dict_metadata
    state = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    checkpoints.load(saved, state)
    return saved, state


def _load_weights(model: nn.Module, state: Mapping[str, Tensor], saved: Saved) -> None:
    weights = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    wanted = {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}
    found = {name: (tuple(value.shape), value.dtype) for name, value in weights.items()}
    if wanted != found:
        other = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(
            f"{saved.path} is of another model ({', '.join(other[:3])}, ...): give one like the run's"
        )
    model.load_state_dict(weights)


def _grown_tensors(model: nn.Module, state: Mapping[str, Tensor], plan: GrowthPlan, part: str) -> dict[str, Tensor]:
    grown = {f"model.{name}": value for name, value in model.state_dict().items()}
    for kind in ("optimizer", "average"):
        of_kind = {name: value for name, value in state.items() if name.startswith(f"{kind}.")}
        grown |= grow_named(of_kind, plan, prefix=_prefix(part, kind))
    if any(name.startswith("average.") for name in state):
        for name, parameter in model.named_parameters():
            grown.setdefault(f"average.{name}", parameter.detach().float())
    return grown


def _grown_facts(facts: Mapping[str, Any], plan: GrowthPlan, part: str) -> dict[str, Any]:
    return {
        **facts,
        "stepped": list(grow_named(dict.fromkeys(facts["stepped"]), plan, prefix=_prefix(part))),
        "optimizer_numbers": grow_named(facts["optimizer_numbers"], plan, prefix=_prefix(part)),
        "guard": SpikeGuard().state_dict(),
    }


def _prefix(part: str, kind: str = "") -> str:
    return "".join(f"{name}." for name in (kind, part) if name)
