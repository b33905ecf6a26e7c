"""Names of judges: what a command's --judge may say, and the judge that it means."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from sana_scale import Judge

EMBEDDED_JUDGE = Path(__file__).parent / "embedded" / "judge"

_KINDS = {
    "clip": "CLIPScore",
    "siglip": "SigLIPScore",
    "image-reward": "ImageReward",
    "vqa": "VQAScore",
    "yes-no": "YesNoJudge",
}

JUDGE_HELP = f'"embedded", the folder or Hub id of a VILA judge, or KIND:REPO, KIND being {", ".join(_KINDS)}.'


def load_judge(
    name: str, *, task: str | None = None, device: "torch.device | str | None" = None, progress: bool = True
) -> "Judge[Image.Image | str | Path]":
    """Returns the judge of a name: `judge(prompt, images)` gives one number per image, higher is better.

    Args:
        name: "embedded"; a folder or Hub repository with a VILA judge; or, each with a Hub repository or a folder,
            "clip:REPO", "siglip:REPO", "image-reward:REPO", "vqa:REPO" (P("Yes") of a vision-language model),
            "yes-no:REPO" (its answer to the verifier's question).
        task: What kind of prompts it will be asked about, if it is a VILA judge with a calibration for that.
        device: Where it runs; None is the first GPU, else the CPU.
        progress: Whether it shows a bar when it takes longer than a second.

    Raises:
        FileNotFoundError: There is no such checkpoint, or it lacks weights: says where they are.
        ValueError: The kind of judge is unknown, the checkpoint is not of that kind, or it has no calibration for the
            task.
    """
    import sana_judge
    from sana.devices import usable_device

    kind, repo = _split(name)
    judge_class: Any = getattr(sana_judge, _KINDS.get(kind, "VILAJudge"))
    if task is not None and judge_class is not sana_judge.VILAJudge:
        raise ValueError(
            f"task is {task!r}, and {name} has no calibrations of tasks: leave it out, or name a VILA judge"
        )
    judge: Any = judge_class.from_pretrained(repo, device=usable_device(device), progress=progress)
    if task is not None:
        judge.facts = replace(judge.facts, calibration=judge.facts.calibration_of(task))
    loaded: Judge[Image.Image | str | Path] = judge
    return loaded


def _split(name: str) -> tuple[str, str]:
    """The kind of judge, "" being VILA's, and its repository or folder."""
    if name == "embedded":
        if not (EMBEDDED_JUDGE / "config.json").is_file():
            raise FileNotFoundError(
                f"this installation has no embedded judge ({EMBEDDED_JUDGE}): name another, such as "
                "clip:openai/clip-vit-large-patch14"
            )
        return "", str(EMBEDDED_JUDGE)
    kind, colon, repo = name.partition(":")
    if not colon or Path(name).exists() or len(kind) == 1:  # one letter is a drive
        return "", name
    if kind not in _KINDS or not repo:
        raise ValueError(f"judge {name!r} is unknown; it must be {JUDGE_HELP}")
    return kind, repo
