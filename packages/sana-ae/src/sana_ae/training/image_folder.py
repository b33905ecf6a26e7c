"""A folder of images as batches of random crops, each a pure function of (seed, epoch, image)."""

import hashlib
import logging
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sana_ae.training.image_reading import DAMAGED, SUFFIXES, bombs, opened, upright_rgb

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

LARGEST = 80_000_000  # pixels: 240 MB once decoded, and less than Pillow warns of
LONGEST_SHAPE = 16  # long side over short side
FEWEST_TO_JUDGE = 200  # decoded images, before their failures can stop a run


class ImageFolder:
    """Batches of square crops of the images below a folder: images (B, 3, size, size) as bytes.

    A crop has the image's whole shorter side down to a half of it, at a random place, maybe mirrored, and is resized to
    `size`. Batch `step` depends on the files, the seed and the step alone. An image that cannot be used is left out,
    counted by reason in `skipped`, and listed: sizes are looked at once, in the headers; one that turns out damaged
    when it is decoded is replaced by the next of its epoch, which each process logs.

    Args:
        folder: searched with its subfolders; links are not followed out of it.
        size: side of the crops in pixels.
        batch_size: crops of a step.
        seed: of order, places and mirroring.
        max_bad: share of images that may be unusable before this raises.
        progress: whether reading the headers shows a progress bar.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: fewer usable images than a batch has, or too many that are not.
    """

    def __init__(
        self, folder: str | Path, *, size: int, batch_size: int, seed: int = 0, max_bad: float = 0.05,
        progress: bool = True,
    ) -> None:  # fmt: skip
        _check_pillow()
        self.folder = Path(folder)
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.max_bad = max_bad
        self.skipped: Counter[str] = Counter()
        self.bad: list[str] = []
        paths = _image_paths(self.folder)
        self.names = [name for name in tqdm(paths, desc="images", disable=not progress) if self._usable(name)]
        self._check_bad(len(paths))
        if len(self.names) < batch_size:
            raise ValueError(
                f"{folder} has {len(self.names)} usable images and batch_size is {batch_size}: add images, or lower it"
            )
        self._decoded = self._failed = 0
        self._epoch_order: tuple[int, np.ndarray[Any, np.dtype[np.int64]]] | None = None

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        return self.part(step, range(self.batch_size))

    def part(self, step: int, slots: range) -> dict[str, Any]:
        """The crops at `slots` of the batch of `step`."""
        epoch, place = divmod(step, len(self.names) // self.batch_size)
        first = place * self.batch_size
        crops = [self._crop_from(epoch, first + slot) for slot in slots]
        return {"images": torch.stack([crop for crop, _ in crops]), "key": [name for _, name in crops]}

    def fixed(self, count: int) -> Tensor:
        """The middle of up to `count` images, as bytes (count, 3, size, size).

        They are always the same, the first ones of the first epoch: from everywhere in the folder.
        """
        chosen = []
        for name in (self.names[index] for index in self._order(0)):
            try:
                with opened(self.folder / name) as file:
                    image = upright_rgb(file)
                    side = min(image.size)
                    left, top = (image.width - side) // 2, (image.height - side) // 2
                    chosen.append(self._resized(image, (left, top, left + side, top + side)))
            except DAMAGED as error:
                self._note(name, f"damaged: {error}")
            if len(chosen) == count:
                break
        if not chosen:
            raise ValueError(f"all {len(self.names)} images of {self.folder} are damaged: mend or remove them")
        return torch.stack(chosen)

    @property
    def fingerprint(self) -> str:
        """A hash of the usable images' names, by which a resumed run knows its data."""
        return hashlib.blake2b("\n".join(self.names).encode(), digest_size=16).hexdigest()

    def _order(self, epoch: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            self._epoch_order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.names)))
        return self._epoch_order[1]

    def _crop_from(self, epoch: int, place: int) -> tuple[Tensor, str]:
        """The crop at a place of an epoch, or of the next image that is not damaged."""
        order = self._order(epoch)
        for offset in range(len(order)):
            name = self.names[order[(place + offset) % len(order)]]
            self._decoded += 1
            try:
                return self._crop(name, epoch), name
            except DAMAGED as error:
                self._failed += 1
                self._note(name, f"damaged: {error}")
                if self._decoded >= FEWEST_TO_JUDGE and self._failed > self.max_bad * self._decoded:
                    break
        raise ValueError(
            f"{self._failed} of {self._decoded} images of {self.folder} are damaged, the last {name}: "
            "mend or remove them"
        )

    def _crop(self, name: str, epoch: int) -> Tensor:
        key = hashlib.blake2b(f"{self.seed}/{epoch}/{name}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(key))
        with opened(self.folder / name) as file:
            image = upright_rgb(file)
            shorter = min(image.size)
            side = int(rng.integers(min(shorter, max(self.size, shorter // 2)), shorter + 1))
            left, top = (int(rng.integers(length - side + 1)) for length in image.size)
            crop = self._resized(image, (left, top, left + side, top + side))
        return crop.flip(2) if rng.random() < 0.5 else crop

    def _resized(self, image: "Image.Image", box: tuple[int, int, int, int]) -> Tensor:
        from PIL import Image

        square = (self.size, self.size)
        pixels = np.array(image.resize(square, Image.Resampling.LANCZOS, box=box))
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _usable(self, name: str) -> bool:
        try:
            with opened(self.folder / name) as image:
                reason = self._complaint(*image.size)
        except DAMAGED as error:
            reason = f"unreadable: {error}"
        except bombs() as error:
            reason = f"too large: {error}"
        if reason:
            self._note(name, reason)
        return not reason

    def _complaint(self, width: int, height: int) -> str:
        if width * height > LARGEST:
            return f"too large: {width}x{height} pixels, at most {LARGEST:,}"
        if min(width, height) < self.size:
            return f"too small: {width}x{height} pixels, at least {self.size} a side"
        if max(width, height) > LONGEST_SHAPE * min(width, height):
            return f"too long: {width}x{height} pixels, at most {LONGEST_SHAPE} to 1"
        return ""

    def _note(self, name: str, reason: str) -> None:
        if name not in self.bad:
            self.bad.append(name)
            self.skipped[reason.partition(":")[0]] += 1
            logger.warning("%s is left out (%s)", self.folder / name, reason)

    def _check_bad(self, count: int) -> None:
        if len(self.bad) > self.max_bad * count:
            reasons = ", ".join(f"{number} {reason}" for reason, number in self.skipped.items())
            raise ValueError(
                f"{len(self.bad)} of {count} images of {self.folder} cannot be used ({reasons}; the first "
                f"{self.bad[0]}): remove them, or allow more than max_bad {self.max_bad}"
            )


def _image_paths(folder: Path) -> list[str]:
    """The images below a folder, in an order that is the same everywhere."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give one of images")
    inside = folder.resolve()
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    names = sorted(path.relative_to(folder).as_posix() for path in paths if path.resolve().is_relative_to(inside))
    if not names:
        raise FileNotFoundError(f"{folder} has no images ({', '.join(SUFFIXES)}) in it or below")
    return names


def _check_pillow() -> None:
    if find_spec("PIL") is None:
        raise ImportError("ImageFolder needs Pillow: pip install 'sana-ae[images]'")
