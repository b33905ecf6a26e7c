"""Pictures on disk, with what made them inside."""

import json
import os
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

METADATA_KEY = "sana"


def save_png(picture: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a PNG, whole or not at all, that carries `record` as JSON in its text chunk "sana"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_itxt(METADATA_KEY, json.dumps(record, ensure_ascii=False))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            picture.save(file, "PNG", pnginfo=info)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
