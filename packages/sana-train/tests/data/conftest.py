"""Images, tars and manifests as other tools write them."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sana_train.data import Encoders, ImageManifest, index_folder


def picture(number: int, width: int = 48, height: int = 48) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def make_picture() -> Callable[..., Image.Image]:
    return picture


@pytest.fixture
def image_bytes() -> Callable[..., bytes]:
    return lambda number=0, *, kind="JPEG", width=48, height=48: encoded(picture(number, width, height), kind)


@pytest.fixture
def write_tar() -> Callable[..., Path]:
    def write(path: Path, files: dict[str, bytes]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for name, content in files.items():
                add(archive, name, content)
        return path

    return write


@pytest.fixture
def dataset(tmp_path: Path, write_tar: Callable[..., Path]) -> Path:
    """A folder with a WebDataset tar of ten square and six wide images, each with two captions, and four files."""
    files: dict[str, bytes] = {}
    for number in range(16):
        wide = number >= 10
        files[f"{number:04d}.jpg"] = encoded(picture(number, 96 if wide else 48, 48))
        captions = [f"picture {number}", f"a picture of number {number}"]
        files[f"{number:04d}.json"] = json.dumps({"caption": captions}).encode()
    write_tar(tmp_path / "set" / "shard-0.tar", files)
    for number in range(16, 20):
        folder = tmp_path / "set" / "loose"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(encoded(picture(number), "PNG"))
        (folder / f"{number}.txt").write_text(f"a loose picture {number}\n", encoding="utf-8")
    return tmp_path / "set"


@pytest.fixture
def manifest(dataset: Path) -> ImageManifest:
    return index_folder(dataset, progress=False)[0]


@pytest.fixture
def encoders() -> Encoders:
    """An autoencoder that averages cells of 8 pixels, and a text encoder that counts letters."""

    def images(pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 8).half()

    def captions(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        states = torch.zeros(len(texts), 4, 2)
        for row, text in enumerate(texts):
            states[row] = torch.tensor([len(text), text.count("a")])
        return states, torch.ones(len(texts), 4, dtype=torch.int64)

    return Encoders(images=images, captions=captions, channels=3, f=8, scaling_factor=0.5)
