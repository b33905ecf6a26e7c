"""The terms of a checkpoint's weights, said when they are loaded."""

import re
from os import PathLike
from pathlib import Path

from sana_judge.checkpoint_reading import read_json
from sana_judge.judge_facts import FACTS

RELEASED = "NVILA-Lite-2B-Verifier"

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
_LICENCE = re.compile(r"^license(?:_name)?:\s*['\"]?([\w.-]+)", re.MULTILINE)


def find_licence(repo_or_dir: str | PathLike[str], root: Path) -> str | None:
    """Returns the licence of a checkpoint's weights: by what it was trained from, else its card, else its name."""
    licence = read_json(root / FACTS).get("licence") or _card_licence(root)
    if licence is None and Path(repo_or_dir).name == RELEASED:
        licence = "cc-by-nc-sa-4.0"
    return None if licence is None else str(licence)


def licence_notice(repo_or_dir: str | PathLike[str], root: Path) -> str | None:
    """Returns what a user of non-commercial weights must know, or None; see `find_licence`."""
    name, licence = Path(repo_or_dir).name, find_licence(repo_or_dir, root)
    if licence is None or "nc" not in re.split(r"[-_.]", licence.lower()):
        return None
    return (
        f"the weights of {name} are licensed {licence}: not for commercial use. A judge trained from a permissively "
        "licensed model (Qwen3-VL-2B, for one) can be asked the same question"
    )


def _card_licence(root: Path) -> str | None:
    card = root / "README.md"
    front = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    found = _LICENCE.search(front[1]) if front else None
    return found[1] if found else None
