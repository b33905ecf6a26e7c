"""Pictures of single objects: emoji from the system font for real runs, drawn shapes where there is no font."""

import io
import math
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from recipes.emoji.vocabulary import COLORS, THINGS

NOTO_COLOR_EMOJI = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")

# Alpha up to this value is a shadow or a wisp of steam: it does not count as part of the object.
FAINT_ALPHA = 16


class SpriteSource(Protocol):
    """Where sprites come from: the name of an object -> an RGBA picture of it, any size, any margin."""

    def __call__(self, name: str, /) -> Image.Image:
        """The picture of `name`."""


class FontSprites:
    """Bitmaps of Noto Color Emoji (136x128), read from the font's CBDT table without a rasteriser.

    Raises FileNotFoundError when the font is not installed.
    """

    def __init__(self, path: Path = NOTO_COLOR_EMOJI) -> None:
        from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

        if not path.exists():
            raise FileNotFoundError(
                f"no emoji font at {path}: install it (Debian, Ubuntu: apt-get install fonts-noto-color-emoji), "
                f"give its path, or use DrawnSprites()"
            )
        font = TTFont(path)
        glyphs, strike = font.getBestCmap(), font["CBDT"].strikeData[0]
        # The first code point is enough: a second one is only the variation selector U+FE0F.
        self._png = {name: strike[glyphs[ord(thing.emoji[0])]].imageData for name, thing in THINGS.items()}

    def __call__(self, name: str, /) -> Image.Image:
        """The emoji of `name`."""
        return Image.open(io.BytesIO(self._png[name])).convert("RGBA")


class FolderSprites:
    """The pictures of a folder that `save_sprites` wrote: for a machine without the font."""

    def __init__(self, folder: Path) -> None:
        if missing := [name for name in THINGS if not (folder / f"{name}.png").exists()]:
            raise FileNotFoundError(f"{folder} has no picture of {missing}: write it with save_sprites")
        self._png = {name: (folder / f"{name}.png").read_bytes() for name in THINGS}

    def __call__(self, name: str, /) -> Image.Image:
        """The picture of `name`."""
        return Image.open(io.BytesIO(self._png[name])).convert("RGBA")


def save_sprites(source: SpriteSource, folder: Path) -> None:
    """Write every object as a PNG, some 100 KB together."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in THINGS:
        source(name).save(folder / f"{name}.png")


class DrawnSprites:
    """24 flat shapes, told apart by outline (6 polygons) and by the pattern cut into them (4)."""

    def __call__(self, name: str, /) -> Image.Image:
        """The shape that stands for `name`, 128x128."""
        number = list(THINGS).index(name)
        outline, pattern = number % len(_OUTLINES), number // len(_OUTLINES)
        hue = list(COLORS.values())[(number * 3) % len(COLORS)].rgb
        image = Image.new("RGBA", (128, 128))
        draw = ImageDraw.Draw(image)
        draw.polygon(_OUTLINES[outline], fill=(*hue, 255))
        for box in _PATTERNS[pattern]:
            draw.rectangle(box, fill=(255, 255, 255, 255))
        return image


def _star(points: int, inner: float) -> list[tuple[float, float]]:
    """A star of radius 60 around (64, 64); a regular polygon where `inner` is its apothem."""
    corners = []
    for k in range(2 * points):
        angle, radius = math.pi * k / points, 60 if k % 2 == 0 else 60 * inner
        corners.append((64 + radius * math.sin(angle), 64 - radius * math.cos(angle)))
    return corners


_OUTLINES = (
    _star(24, 1.0),
    _star(4, 0.35),
    _star(3, 0.5),
    [(8, 36), (120, 36), (120, 92), (8, 92)],
    [(36, 6), (92, 6), (92, 122), (36, 122)],
    [
        (44, 8),
        (84, 8),
        (84, 44),
        (120, 44),
        (120, 84),
        (84, 84),
        (84, 120),
        (44, 120),
        (44, 84),
        (8, 84),
        (8, 44),
        (44, 44),
    ],
)
_PATTERNS: tuple[tuple[tuple[int, int, int, int], ...], ...] = (
    (),
    ((50, 50, 78, 78),),
    ((40, 56, 88, 72),),
    ((56, 40, 72, 88),),
)


def trim(image: Image.Image) -> Image.Image:
    """Cut off the transparent and faint margin."""
    visible = image.getchannel("A").point([255 * (alpha > FAINT_ALPHA) for alpha in range(256)])
    return image.crop(visible.getbbox())


def tint(image: Image.Image, rgb: tuple[int, int, int]) -> Image.Image:
    """Paint an object in one colour: its hue is replaced, its light and shade stay.

    The object's mean luminance becomes `rgb`; two standard deviations darker is 0.45 of it, two lighter is 0.45 of
    the way to white. So a white cup and a black hat come out equally red.
    """
    pixels = np.asarray(image, dtype=np.float32)  # (H, W, 4)
    luminance = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    opaque = luminance[pixels[..., 3] > FAINT_ALPHA]
    shade = np.clip((luminance - opaque.mean()) / (2 * opaque.std() + 1), -1, 1)[..., None]  # (H, W, 1)
    color = np.array(rgb, dtype=np.float32)
    tinted = color + shade * np.where(shade < 0, 0.55 * color, 0.45 * (255 - color))
    return Image.fromarray(np.concatenate([tinted, pixels[..., 3:]], axis=-1).round().astype(np.uint8), "RGBA")


class SpriteSheet:
    """Trimmed, tinted and scaled sprites of one source, each made once: `sheet(name, color, size)`."""

    def __init__(self, source: SpriteSource) -> None:
        self._source = source
        self._full: dict[tuple[str, str | None], Image.Image] = {}
        self._scaled: dict[tuple[str, str | None, int], Image.Image] = {}

    def __call__(self, name: str, color: str | None, size: int) -> Image.Image:
        """The object in `color` (None: as it comes), its longer side `size` pixels."""
        key = (name, color, size)
        if key not in self._scaled:
            full = self._colored(name, color)
            scale = size / max(full.size)
            width, height = (max(1, round(side * scale)) for side in full.size)
            self._scaled[key] = full.resize((width, height), Image.Resampling.LANCZOS)
        return self._scaled[key]

    def _colored(self, name: str, color: str | None) -> Image.Image:
        if (name, color) not in self._full:
            if color is None:
                self._full[name, color] = trim(self._source(name))
            else:
                self._full[name, color] = tint(self._colored(name, None), COLORS[color].rgb)
        return self._full[name, color]
