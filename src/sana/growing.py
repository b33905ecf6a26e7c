"""A checkpoint made deeper: any layout in, a folder that loads out, with the plan that made it beside the weights."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sana.catalog import locate, public_name
from sana.pipeline_folder import INDEX
from sana.publishing.model_card import PARENT
from sana_dit import SanaTransformer
from sana_scale.files import write_json
from sana_train.folders import replace_folder
from sana_train.growth import GrowthPlan, Init, grow_depth

PLAN = "growth.json"
_TRANSFORMER = "transformer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """How to grow: the arguments of `sana_train.grow_depth`, and whether to measure what changes in the output."""

    depth: int
    drop_last: int = 2
    init: Init = "partial_preservation"
    seed: int = 0
    check: bool = True


def grow_checkpoint(
    source: str | Path, destination: str | Path, growth: Growth | GrowthPlan, *, progress: bool = True
) -> GrowthPlan:
    """Write a deeper transformer into a new folder, whole or not at all.

    Needs memory for the grown weights, in the type of the source's: 9.6 GB for 4.8B in bfloat16.

    Args:
        source: a pipeline folder, a transformer folder, a .safetensors or .pth file, a Hub id, a name of the catalog or
            "embedded".
        destination: from a local pipeline a whole one, with copies of its other parts; else a transformer folder. The
            plan is in it as `growth.json`, the source's name as `parent.json`.
        growth: what to do, or a plan that says what was done to the same weights before.
        progress: whether a bar counts blocks.

    Returns:
        The plan.

    Raises:
        FileNotFoundError: there is no source.
        FileExistsError: the destination is there and not an empty folder.
        ValueError: the source is of an unknown layout or cannot be grown so, the destination is inside it, or the
            plan is for other weights.
    """
    destination = Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise FileExistsError(f"{destination} already exists: give a new folder or an empty one")
    found, revision = locate(source)
    if destination.resolve().is_relative_to(Path(found).resolve()):
        raise ValueError(f"{destination} is inside {found}, which is copied: give a folder outside it")
    model = SanaTransformer.from_pretrained(found, revision=revision)
    if isinstance(growth, GrowthPlan):
        plan = growth
        plan.apply(model, progress=progress)
    else:
        _, plan = grow_depth(model, **asdict(growth), progress=progress)
    destination.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(destination, _writer(model, plan, Path(found), parent=public_name(source)))
    return plan


def _writer(model: SanaTransformer, plan: GrowthPlan, source: Path, *, parent: str) -> Callable[[Path], None]:
    is_pipeline = (source / INDEX).is_file()

    def write(folder: Path) -> None:
        if is_pipeline:
            shutil.copytree(source, folder, ignore=_left_out(source), dirs_exist_ok=True)
        model.save_pretrained(folder / _TRANSFORMER if is_pipeline else folder)
        plan.save(folder / PLAN)
        write_json(folder / PARENT, {"parent": parent})

    return write


def _left_out(source: Path) -> Callable[[str, list[str]], set[str]]:
    """Tells `copytree` what belongs to the old transformer: itself, the plan that made it, and the card about it."""
    return lambda folder, names: {_TRANSFORMER, PLAN, PARENT, "README.md"} if Path(folder) == source else set()
