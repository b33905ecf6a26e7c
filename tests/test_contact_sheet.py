import pytest
from PIL import Image, ImageChops, ImageFont

from sana.contact_sheet import Entry, contact_sheets


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (60, 30), "#3060c0").save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def area_of(page, color):
    return {rgb: count for count, rgb in page.getcolors(2**24)}.get(color, 0)


@pytest.mark.parametrize(("count", "pages"), [(1, 1), (6, 1), (7, 2), (12, 2), (13, 3)])
def test_pictures_are_spread_over_pages(picture, count, pages):
    entries = [Entry(picture=picture, title=str(number)) for number in range(count)]
    drawn = list(contact_sheets(entries, "heading", columns=3, rows=2))
    assert len(drawn) == pages
    # 60 x 30 is fitted into 240 x 240: 240 x 120 of its colour each.
    assert sum(area_of(page, (0x30, 0x60, 0xC0)) for page in drawn) == count * 240 * 120


def test_no_pictures_are_no_pages():
    assert list(contact_sheets([], "heading")) == []


def test_a_caption_is_drawn_in_its_three_colours(picture):
    (page,) = contact_sheets([Entry(picture=picture, title="prompt", remark="reason", footnote="name")], "heading")
    below = page.crop((0, 44 + 240, page.width, page.height))
    for color in ((0x11, 0x11, 0x11), (0xB3, 0x26, 0x1E), (0x76, 0x76, 0x76)):
        assert area_of(below, color) > 10


def test_a_long_caption_is_wrapped_and_cut_within_its_column(picture):
    long = Entry(picture=picture, title="word " * 60, remark="x" * 400, footnote="folder/" * 30)
    (page,) = contact_sheets([long, Entry(picture=picture, title="")], "heading", columns=2)
    (short,) = contact_sheets([Entry(picture=picture, title="one line")], "heading", columns=2)
    # Three lines of title, four of remark and one of footnote, where the short one has one: 17 pixels each.
    assert page.height - short.height == 7 * 17
    gap = page.crop((10 + 240, 44, 20 + 240, page.height))
    assert gap.getcolors() == [(gap.width * gap.height, (255, 255, 255))]


def test_letters_that_the_font_lacks_are_drawn_as_something(picture):
    drawn = [next(contact_sheets([Entry(picture=picture, title=title)], "heading")) for title in ("一只猫 🐈", "")]
    assert drawn[0].height > drawn[1].height
    assert area_of(drawn[0], (0x11, 0x11, 0x11)) > area_of(drawn[1], (0x11, 0x11, 0x11))


def test_a_picture_that_cannot_be_read_is_a_crossed_box(tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    for name in ("broken.png", "none.png"):
        (page,) = contact_sheets([Entry(picture=tmp_path / name, title="prompt")], "heading")
        assert area_of(page, (0xEE, 0xEE, 0xEE)) > 200 * 200


def test_a_heading_longer_than_the_row_is_wrapped_and_fits(picture):
    heading = "a long prompt of many words " * 20
    one, of_one = (next(contact_sheets([Entry(picture=picture, title="prompt")], text)) for text in (heading, "short"))
    assert one.width == of_one.width == 240 + 2 * 10
    # At least as many lines as its length takes, 24 pixels each, and its ink within the margins.
    lines = -(-ImageFont.load_default(20).getlength(heading.strip()) // 240)
    assert one.height - of_one.height >= (lines - 1) * 24
    for edge in (one.crop((0, 0, 5, one.height)), one.crop((one.width - 5, 0, one.width, one.height))):
        assert ImageChops.invert(edge).getbbox() is None
