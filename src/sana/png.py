"""Pictures on disk, with what made them inside."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sana_scale.files import write_bytes

METADATA_KEY = "sana"


def save_png(picture: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a PNG, whole or not at all, that carries `record` as JSON in its text chunk "sana"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_itxt(METADATA_KEY, json.dumps(record, ensure_ascii=False))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    write_bytes(path, buffer.getvalue())
