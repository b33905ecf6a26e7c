"""The images of a folder in GenEval's layout, each with what is asked of it and a hash of its bytes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sana_judge.geneval.layout import Metadata, read_directory
from sana_judge.geneval.rules import Detection

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image: its file, its name in the layout ("00000/samples/0000.png"), and what it must show."""

    path: Path
    name: str
    metadata: Metadata

    def hash(self) -> str:
        """SHA-256 of the file, so that a replaced image is noticed."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def key(self, image_hash: str, detector_and_rules: str) -> str:
        """A hash that changes when detections have to be made anew: of the image, its prompt, and who detects how."""
        asked = json.dumps(dict(self.metadata), sort_keys=True)
        return hashlib.sha256(f"{detector_and_rules}\n{asked}\n{image_hash}".encode()).hexdigest()

    def read(self) -> "Image.Image | str":
        """The image, or why it cannot be read."""
        from sana_judge.image_reading import read_image

        try:
            return read_image(self.path)
        except (OSError, ValueError) as error:
            return str(error)

    def check_named(self, asked: Sequence[Detection]) -> None:
        """Raise ValueError where an object has no colour that the prompt asks for."""
        for detection in asked:
            if detection.color is None:
                raise ValueError(
                    f"{self.metadata['prompt']!r} ({self.name}) asks for the colour of a {detection.name}, and nobody "
                    "named it: give colors=, such as CLIPColors, or detections that have a color"
                )


def list_samples(root: Path, metadata: Sequence[Metadata] | None) -> list[Sample]:
    """All images below a folder. Raises what `read_directory` raises, and FileNotFoundError where there is none."""
    samples = [
        Sample(path=path, name=path.relative_to(root).as_posix(), metadata=folder.metadata)
        for folder in read_directory(root, metadata)
        for path in folder.images
    ]
    if not samples:
        raise FileNotFoundError(f"{root} holds no images: they must be in 00000/samples/, with names such as 0000.png")
    return samples
