"""How pictures were drawn, as their files say: what goes beside a benchmark's table."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from sana.png import METADATA_KEY
from sana.sampler import FACTS

_NAMES = (*FACTS, "height", "width")


def picture_settings(paths: Iterable[Path]) -> dict[str, Any]:
    """The settings that PNGs carry: one value where all agree, else a list; seeds as a range where they are one.

    Empty where no picture carries any; `pictures_without_settings` counts those that carry none beside others.
    """
    records = [_record(path) for path in paths]
    told = [record for record in records if record]
    if not told:
        return {}
    settings: dict[str, Any] = {}
    for name in _NAMES:
        values = _distinct(record.get(name) for record in told)
        settings[name] = values[0] if len(values) == 1 else values
    seeds = sorted({record["seed"] for record in told if isinstance(record.get("seed"), int)})
    whole = len(seeds) > 1 and seeds == list(range(seeds[0], seeds[-1] + 1))
    settings["seeds"] = f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds)) or None
    settings["pictures_without_settings"] = len(records) - len(told) or None
    return {name: value for name, value in settings.items() if value not in (None, "", {})}


def _distinct(values: Iterable[Any]) -> list[Any]:
    by_text = {json.dumps(value, sort_keys=True): value for value in values}
    return [by_text[text] for text in sorted(by_text)]


def _record(path: Path) -> dict[str, Any]:
    try:
        with Image.open(path) as picture:
            record = json.loads(picture.info.get(METADATA_KEY, "{}"))
    except (OSError, SyntaxError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
