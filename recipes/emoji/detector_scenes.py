"""What the detector is trained on: real renders, softened, dimmed and compressed as no renderer would."""

import io
import random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter

from recipes.emoji.contents import sample_content
from recipes.emoji.detector_network import CELL, GRID, to_input
from recipes.emoji.scenes import SIZE, TAG_WEIGHTS, Box, SceneObject, arrange, render
from recipes.emoji.sprites import SpriteSheet
from recipes.emoji.vocabulary import COLORS, THINGS

NO_OBJECT = len(THINGS)
NO_COLOR = -1

# Cells whose centre is this near (in x and in y) to an object's centre answer for it: one to four of them.
ANSWERING = 0.75 * CELL

_CLASSES = {name: number for number, name in enumerate(THINGS)}
_COLORS = {name: number for number, name in enumerate(COLORS)}

Pixels = npt.NDArray[np.uint8]


class DetectorBatches:
    """Training pictures and the targets of every cell, as a pure function of the step.

    images (B, 3, 128, 128) in [-1, 1]; classes (B, 8, 8), 24 for nothing; colors (B, 8, 8), -1 for none; boxes
    (B, 4, 8, 8) from the cell's centre to the left, upper, right and lower edge, in cells.
    """

    def __init__(self, sprites: SpriteSheet, *, batch_size: int, seed: int = 0) -> None:
        self.sprites = sprites
        self.batch_size = batch_size
        self.seed = seed

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        keys = [f"detector {self.seed} {step} {slot}" for slot in range(self.batch_size)]
        drawn = [training_picture(random.Random(key), self.sprites) for key in keys]
        targets = [cell_targets(objects) for _, objects in drawn]
        classes, colors, boxes = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*targets, strict=True))
        images = to_input(np.stack([picture for picture, _ in drawn]))
        return {"images": images, "classes": classes, "colors": colors, "boxes": boxes, "key": keys}


def training_picture(rng: random.Random, sprites: SpriteSheet) -> tuple[Pixels, tuple[SceneObject, ...]]:
    """Half the pictures are scenes of the world, held-out ones too; half are objects anywhere; nearly all are worn."""
    if rng.random() < 0.5:
        content = sample_content(rng, rng.choice(list(TAG_WEIGHTS)))
        scene = arrange(content, sprites, rng)
        picture, objects = render(scene, sprites), scene.objects
    else:
        picture, objects = _scatter(rng, sprites)
    return (picture if rng.random() < 0.1 else wear(picture, rng)), objects


def _scatter(rng: random.Random, sprites: SpriteSheet) -> tuple[Pixels, tuple[SceneObject, ...]]:
    """Up to eight objects of any kind, colour and size, anywhere without touching: no layout to rely on.

    One in seven is a chimera of two objects, which is nothing: models that fail draw such, and they must not count.
    """
    image = Image.new("RGB", (SIZE, SIZE), tuple(rng.randint(180, 255) for _ in range(3)))
    taken: list[Box] = []
    objects = []
    for _ in range(rng.randint(1, 8)):
        (name, other), color = rng.sample(list(THINGS), 2), rng.choice([None, *COLORS])
        size = rng.randrange(36, 64 if rng.random() < 0.8 else 104, 4)
        sprite = sprites(name, color, size)
        left, top = (rng.randint(-4, SIZE - side + 4) for side in sprite.size)
        box = (left, top, left + sprite.width, top + sprite.height)
        if any(_touch(box, before) for before in taken):
            continue
        taken.append(box)
        if rng.random() < 1 / 7:
            sprite = _chimera(sprite, sprites(other, color, size), rng)
        else:
            objects.append(SceneObject(name=name, color=color, box=box))
        image.paste(sprite, (left, top), sprite)
    return np.asarray(image), tuple(objects)


def _chimera(one: Image.Image, two: Image.Image, rng: random.Random) -> Image.Image:
    """The left or upper half of one object, the other half of another."""
    width, height = one.size
    half = (width // 2, 0, width, height) if rng.random() < 0.5 else (0, height // 2, width, height)
    both = one.copy()
    both.paste(two.resize(one.size).crop(half), half)
    return both


def _touch(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def wear(picture: Pixels, rng: random.Random) -> Pixels:
    """Blur or shrink and enlarge, JPEG, gain and offset of each channel, noise: each at random strength."""
    image = Image.fromarray(picture)
    softness = rng.random()
    if softness < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.5)))
    elif softness < 0.7:
        side = rng.randint(32, 112)
        image = image.resize((side, side), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BICUBIC)
    if rng.random() < 0.4:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(10, 80))
        image = Image.open(buffer)
    generator = np.random.default_rng(rng.getrandbits(64))
    gain = generator.uniform(0.9, 1.1) * generator.uniform(0.95, 1.05, 3)
    offset = generator.uniform(-12, 12, 3)
    noise = generator.standard_normal((SIZE, SIZE, 3), dtype=np.float32) * (rng.uniform(0, 10))
    worn = np.asarray(image, dtype=np.float32) * gain + offset + noise
    return worn.clip(0, 255).astype(np.uint8)


def cell_targets(
    objects: tuple[SceneObject, ...],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The class (8, 8), colour (8, 8) and box (4, 8, 8) that each cell should report."""
    classes = np.full((GRID, GRID), NO_OBJECT)
    colors = np.full((GRID, GRID), NO_COLOR)
    boxes = np.zeros((4, GRID, GRID), np.float32)
    centers = (np.arange(GRID) + 0.5) * CELL
    for item in objects:
        x0, y0, x1, y1 = item.box
        columns = np.flatnonzero(abs(centers - (x0 + x1) / 2) < ANSWERING)
        rows = np.flatnonzero(abs(centers - (y0 + y1) / 2) < ANSWERING)
        cells = np.ix_(rows, columns)
        classes[cells] = _CLASSES[item.name]
        colors[cells] = NO_COLOR if item.color is None else _COLORS[item.color]
        edges = np.meshgrid(centers[columns], centers[rows])
        for side, (edge, center) in enumerate(zip((x0, y0, x1, y1), (*edges, *edges), strict=True)):
            boxes[side][cells] = (edge - center) / CELL
    return classes, colors, boxes
