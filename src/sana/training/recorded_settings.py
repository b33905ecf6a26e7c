"""What a run said of itself when it last saved."""

import json
from pathlib import Path
from typing import Any


def recorded_settings(run_dir: Path) -> dict[str, Any] | None:
    """The settings in the newest checkpoint that can be read; None where there is none."""
    names = [path.name.removeprefix("step-") for path in (run_dir / "checkpoints").glob("step-*")]
    for step in sorted(filter(str.isdecimal, names), key=int, reverse=True):  # others are being written
        path = run_dir / "checkpoints" / f"step-{step}" / "facts.json"
        try:
            settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError):  # a damaged checkpoint, which the trainer passes over
            continue
        return settings
    return None
