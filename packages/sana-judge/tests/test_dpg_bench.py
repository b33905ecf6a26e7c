import pytest
from PIL import Image

from sana_judge.dpg_bench import Question, read_dpg_bench, score_image, split_grid, table

HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language\n"
)
ROWS = """cats,"two cats, one red",,1,0,entity,whole,entity - whole (cat),Are there cats?
cats,"two cats, one red",,2,1,other,count,"other - count (cats, ==2)",Are there two cats?
cats,"two cats, one red",,3,"1, 2",attribute,color,"attribute - color (cat, red)",Is one cat red?
dogs,a dog,,1,0,entity,whole,entity - whole (dog),Is there a dog?
"""


@pytest.fixture
def questions(tmp_path):
    (tmp_path / "dpg_bench.csv").write_text(HEADER + ROWS)
    return read_dpg_bench(tmp_path / "dpg_bench.csv")


def test_the_questions_of_every_item_are_read(questions):
    assert list(questions) == ["cats", "dogs"]
    assert questions["cats"][2] == Question(
        number=3, text="Is one cat red?", category="attribute - color", parents=(1, 2)
    )
    assert questions["dogs"][0].parents == ()


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        ((True, True, True), 1.0),
        ((True, True, False), 2 / 3),
        ((False, True, True), 0.0),  # nothing counts without its parent
        ((True, False, True), 1 / 3),
    ],
)
def test_a_question_counts_only_where_its_parents_are_right(questions, answers, score):
    assert score_image(questions["cats"], dict(enumerate(answers, 1))) == pytest.approx(score)


def test_a_no_reaches_grandchildren_that_come_later_and_none_that_came_before():
    def chain(*parents):
        return [Question(number=n, text="?", category="c", parents=(p,) if p else ()) for n, p in parents]

    # 3 depends on 2, 2 on 1; only 1 is answered with no.
    answers = {1: False, 2: True, 3: True}
    assert score_image(chain((1, 0), (2, 1), (3, 2)), answers) == 0.0
    assert score_image(chain((1, 0), (3, 2), (2, 1)), answers) == pytest.approx(1 / 3)


def test_the_table_averages_images_then_prompts_and_categories_ignore_parents(questions):
    all_yes, no_cats = {1: True, 2: True, 3: True}, {1: False, 2: True, 3: True}
    summary = table(questions, {"cats": [all_yes, no_cats], "dogs": [{1: False}]})
    assert summary.prompts == {"cats": 0.5, "dogs": 0.0}
    assert summary.overall == 0.25
    # Of the last image of each prompt: its answers, not what is left of them.
    assert summary.detailed == {"attribute - color": 1.0, "entity - whole": 0.0, "other - count": 1.0}
    assert summary.broad == {"attribute": 1.0, "entity": 0.0, "other": 1.0}


def test_what_cannot_be_scored_is_named(questions):
    with pytest.raises(ValueError, match=r"\[2, 3\] without an answer"):
        score_image(questions["cats"], {1: True})
    with pytest.raises(ValueError, match="0 questions"):
        score_image([], {})
    with pytest.raises(ValueError, match="'birds' is unknown or has no images"):
        table(questions, {"birds": [{1: True}]})
    with pytest.raises(ValueError, match="'dogs' is unknown or has no images"):
        table(questions, {"dogs": []})
    with pytest.raises(ValueError, match="at least one item"):
        table(questions, {})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS + "dogs,a dog,,2,7,entity,whole,entity - whole (dog),Is it there?\n", r"question 2 of dogs .* \[7\]"),
        (ROWS + "dogs,a dog,,two,0,entity,whole,entity - whole (dog),Is it there?\n", "row 6 of"),
        (ROWS + "dogs,a dog\n", "row 6 of"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, rows, message):
    (tmp_path / "d.csv").write_text(HEADER + rows)
    with pytest.raises(ValueError, match=message):
        read_dpg_bench(tmp_path / "d.csv")


def test_a_grid_is_cut_row_by_row():
    grid = Image.new("RGB", (8, 8))
    for place, color in zip([(0, 0), (4, 0), (0, 4), (4, 4)], ["red", "lime", "blue", "white"], strict=True):
        grid.paste(color, (*place, place[0] + 4, place[1] + 4))
    cut = split_grid(grid, side=4)
    assert [image.size for image in cut] == [(4, 4)] * 4
    assert [image.getpixel((3, 0)) for image in cut] == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    assert len(split_grid(grid, side=8, count=1)) == 1
    with pytest.raises(ValueError, match="does not fit into 8x8"):
        split_grid(grid, side=8, count=2)
