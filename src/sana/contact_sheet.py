"""Contact sheets: many pictures with captions on a few pages that can be looked through."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sana_judge.image_reading import read_image

_SIDE = 240  # of a picture, in pixels
_MARGIN = 10
_LINE = 17
_FONT_SIZE = 14
_HEADING_LINE, _HEADING_SIZE = 24, 20
_MOST_LINES = (3, 4, 1)  # of title, remark and footnote
_COLORS = ("#111111", "#b3261e", "#767676")

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A picture file with what stands below it: a title, a remark in red, a footnote in grey."""

    picture: Path
    title: str
    remark: str = ""
    footnote: str = ""


def contact_sheets(entries: Sequence[Entry], heading: str, *, columns: int = 6, rows: int = 5) -> Iterator[Image.Image]:
    """Yields pages of columns x rows pictures, each with its heading; a picture that cannot be read is a crossed box.

    The captions are in Pillow's own font: what it cannot draw, such as Chinese, is a box.
    """
    per_page = columns * rows
    pages = -(-len(entries) // per_page)
    for number in range(pages):
        of_page = entries[number * per_page : (number + 1) * per_page]
        yield _page(of_page, f"{heading}, page {number + 1} of {pages}", min(columns, len(of_page)))


def _page(entries: Sequence[Entry], heading: str, columns: int) -> Image.Image:
    tiles = [_tile(entry) for entry in entries]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    font = ImageFont.load_default(_HEADING_SIZE)
    width = columns * (_SIDE + _MARGIN) + _MARGIN
    lines = _broken(heading, font, width - 2 * _MARGIN)
    top = 2 * _MARGIN + len(lines) * _HEADING_LINE
    page = Image.new("RGB", (width, top + sum(heights)), "white")
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * _HEADING_LINE), line, fill=_COLORS[0], font=font)
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            page.paste(tile, (_MARGIN + column * (_SIDE + _MARGIN), top))
        top += height
    return page


def _tile(entry: Entry) -> Image.Image:
    """One picture over its caption, as high as the caption needs."""
    font = ImageFont.load_default(_FONT_SIZE)
    texts = (entry.title, entry.remark, entry.footnote)
    paragraphs = [_wrapped(text, font, limit) for text, limit in zip(texts, _MOST_LINES, strict=True)]
    height = _SIDE + sum(map(len, paragraphs)) * _LINE + 2 * _MARGIN
    tile = Image.new("RGB", (_SIDE, height), "white")
    picture = _picture(entry.picture)
    tile.paste(picture, ((_SIDE - picture.width) // 2, (_SIDE - picture.height) // 2))
    draw = ImageDraw.Draw(tile)
    y = _SIDE + _MARGIN // 2
    for lines, color in zip(paragraphs, _COLORS, strict=True):
        for line in lines:
            draw.text((0, y), line, fill=color, font=font)
            y += _LINE
    return tile


def _picture(path: Path) -> Image.Image:
    try:
        return ImageOps.contain(read_image(path), (_SIDE, _SIDE), Image.Resampling.LANCZOS)
    except (OSError, ValueError):
        broken = Image.new("RGB", (_SIDE, _SIDE), "#eeeeee")
        draw = ImageDraw.Draw(broken)
        for ends in ((0, 0, _SIDE, _SIDE), (0, _SIDE, _SIDE, 0)):
            draw.line(ends, fill="#bbbbbb", width=2)
        return broken


def _wrapped(text: str, font: _Font, limit: int) -> list[str]:
    """The lines of a text, broken between words, or within one that is too long; of too many the last ends in "..."."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        lines += _broken(paragraph, font, _SIDE)
    if len(lines) > limit:
        lines = lines[:limit]
        while font.getlength(f"{lines[-1]}...") > _SIDE:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "..."
    return lines


def _broken(paragraph: str, font: _Font, width: int) -> list[str]:
    lines = [""]
    for word in paragraph.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append("")
            longer = word
        while font.getlength(longer) > width:
            fits = next(n for n in range(len(longer) - 1, 0, -1) if font.getlength(longer[:n]) <= width or n == 1)
            lines[-1:] = [longer[:fits], ""]
            longer = longer[fits:]
        lines[-1] = longer
    return lines
