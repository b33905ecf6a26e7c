"""The README's picture: prompts of the emoji world by the embedded model, nothing chosen by hand."""

import argparse
from pathlib import Path

from PIL import Image

from sana import SanaPipeline

PROMPTS = (
    "two red apples left of a cat",
    "a blue car",
    "three green stars",
    "a red house above a blue fish",
    "一只狗",
    "🍎🍎 left of 🐈",
)
SEEDS = range(6)
GAP = 4


def main() -> None:
    """Write a PNG whose rows are PROMPTS and whose columns are SEEDS."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.readme_picture", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/emoji.png"))
    out = parser.parse_args().out
    pipeline = SanaPipeline.embedded()
    rows = [pipeline(prompt, seeds=list(SEEDS)) for prompt in PROMPTS]
    side = rows[0][0].width + GAP
    sheet = Image.new("RGB", (side * len(SEEDS) - GAP, side * len(PROMPTS) - GAP), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (side * column, side * row))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main()
