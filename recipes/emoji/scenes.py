"""Scenes of the emoji world: objects on a 2x2 grid, captions, exact boxes; each a pure function of (seed, index)."""

import argparse
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from recipes.emoji.captions import LANGUAGES, caption
from recipes.emoji.contents import Content, Group, sample_training_content
from recipes.emoji.sprites import DrawnSprites, FontSprites, SpriteSheet

SIZE = 128
LARGE = (88, 92, 96)  # longer side of an object that is alone
SMALL = (50, 52, 54, 56)  # with a jitter of 4, 56 just stays within its cell of 64

# The composed tasks are the hard ones: they get most of the scenes.
TAG_WEIGHTS = {
    "single_object": 1,
    "two_object": 2,
    "counting": 2,
    "colors": 2,
    "position": 3,
    "color_attr": 3,
    "mixture": 4,
}
LANGUAGE_WEIGHTS = {"english": 4, "chinese": 2, "mixed": 2, "emoji": 2}

Box = tuple[int, int, int, int]
Point = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One object; `color` is None for an untinted one, `box` is (x0, y0, x1, y1) in pixels, x1 and y1 outside."""

    name: str
    color: str | None
    box: Box


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A scene ready to draw: its content, its caption, where everything is, and the colour behind it."""

    content: Content
    language: str
    caption: str
    objects: tuple[SceneObject, ...]
    background: tuple[int, int, int]

    @property
    def metadata(self) -> dict[str, Any]:
        """One line of GenEval's jsonl."""
        return self.content.metadata(self.caption)

    @property
    def record(self) -> dict[str, Any]:
        """GenEval's metadata and the ground truth boxes."""
        boxes = [{"class": item.name, "color": item.color, "box": list(item.box)} for item in self.objects]
        return self.metadata | {"boxes": boxes}


def scene_at(index: int, sprites: SpriteSheet, *, seed: int = 0) -> Scene:
    """Training scene number `index` of the endless sequence `seed`."""
    return sample_scene(random.Random(f"{seed} {index}"), sprites)


def sample_scene(
    rng: random.Random, sprites: SpriteSheet, *, tag: str | None = None, language: str | None = None
) -> Scene:
    """Draw a training scene: nothing held out is in it. `tag` and `language` are drawn too where they are None."""
    tag = tag or _weighted(rng, TAG_WEIGHTS)
    language = language or _weighted(rng, LANGUAGE_WEIGHTS)
    return arrange(sample_training_content(rng, tag), sprites, rng, language=language)


def _weighted(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def arrange(content: Content, sprites: SpriteSheet, rng: random.Random, *, language: str = "english") -> Scene:
    """Place the objects of any content, held out or not, and word its caption."""
    kinds = [group for group in content.groups for _ in range(group.count)]
    sizes, jitter = _sizes_and_jitter(content)
    objects = []
    for group, (x, y) in zip(kinds, _centers(content, rng), strict=True):
        width, height = sprites(group.name, group.color, rng.choice(sizes)).size
        left = x + rng.randint(-jitter, jitter) - width // 2
        top = y + rng.randint(-jitter, jitter) - height // 2
        objects.append(SceneObject(name=group.name, color=group.color, box=(left, top, left + width, top + height)))
    return Scene(
        content=content,
        language=language,
        caption=caption(content, language, rng),
        objects=tuple(objects),
        background=(rng.randint(205, 250), rng.randint(205, 250), rng.randint(205, 250)),
    )


def _sizes_and_jitter(content: Content) -> tuple[tuple[int, ...], int]:
    counts = [group.count for group in content.groups]
    if counts == [1]:
        return LARGE, 6
    # Two left of two: the far corners lie on a diagonal, where "left of" holds by GenEval's rule up to a jitter of 3.
    return SMALL, 2 if content.relation and counts == [2, 2] else 4


def _centers(content: Content, rng: random.Random) -> list[Point]:
    """Where the objects go, in the order of the groups: the middle, a relation's two lines, or random cells."""
    if content.relation:
        return _relation_centers(content.groups, content.relation, rng)
    total = sum(group.count for group in content.groups)
    if total == 1:
        return [(SIZE // 2, SIZE // 2)]
    cells = [(x, y) for x in (SIZE // 4, 3 * SIZE // 4) for y in (SIZE // 4, 3 * SIZE // 4)]
    return rng.sample(cells, total)


def _relation_centers(groups: tuple[Group, ...], relation: str, rng: random.Random) -> list[Point]:
    """Two columns for left and right, two rows for above and below; a single object sits beside the middle of two."""
    near, middle, far = SIZE // 4, SIZE // 2, 3 * SIZE // 4
    along = (near, far) if relation in ("left of", "above") else (far, near)
    shared = rng.choice((near, middle, far)) if all(group.count == 1 for group in groups) else middle
    points = []
    for group, position in zip(groups, along, strict=True):
        for across in (shared,) if group.count == 1 else (near, far):
            points.append((position, across) if relation in ("left of", "right of") else (across, position))
    return points


def render(scene: Scene, sprites: SpriteSheet) -> npt.NDArray[np.uint8]:
    """Draw the scene: (128, 128, 3). `sprites` must be the sheet that the scene was arranged with."""
    image = Image.new("RGB", (SIZE, SIZE), scene.background)
    for item in scene.objects:
        x0, y0, x1, y1 = item.box
        sprite = sprites(item.name, item.color, max(x1 - x0, y1 - y0))
        image.paste(sprite, (x0, y0), sprite)
    return np.asarray(image)


def contact_sheet(pictures: Iterable[Image.Image], captions: Iterable[str], *, columns: int = 8) -> Image.Image:
    """Pictures in rows, each above its caption."""
    tiles = [_tile(picture, text) for picture, text in zip(pictures, captions, strict=True)]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (width * min(columns, len(tiles)), height * -(-len(tiles) // columns)), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    return sheet


def _tile(picture: Image.Image, text: str) -> Image.Image:
    tile = Image.new("RGB", (picture.width + 12, picture.height + 52), "white")
    tile.paste(picture, (6, 6))
    font = ImageFont.load_default(11)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines[-1:] = [longer] if font.getlength(longer) <= picture.width else [lines[-1], word]
    ImageDraw.Draw(tile).multiline_text((6, picture.height + 9), "\n".join(lines), fill=(60, 60, 60), font=font)
    return tile


def main() -> None:
    """Write a contact sheet of the first scenes, and print their captions in every form."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.scenes", description=main.__doc__)
    parser.add_argument("--sheet", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawn", action="store_true", help="plain shapes: needs no font")
    options = parser.parse_args()

    sprites = SpriteSheet(DrawnSprites() if options.drawn else FontSprites())
    scenes = [scene_at(index, sprites, seed=options.seed) for index in range(options.scenes)]
    pictures = [Image.fromarray(render(scene, sprites)) for scene in scenes]
    english = [caption(scene.content, "english") for scene in scenes]
    contact_sheet(pictures, english).save(options.sheet)
    for scene in scenes:
        print(" | ".join(caption(scene.content, language) for language in LANGUAGES))


if __name__ == "__main__":
    main()
