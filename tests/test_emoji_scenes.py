import hashlib
import random
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from recipes.emoji.captions import LANGUAGES, caption
from recipes.emoji.contents import (
    MIXTURE,
    TAGS,
    TASKS,
    Content,
    Group,
    evaluation_contents,
    is_held_out,
    sample_training_content,
)
from recipes.emoji.scenes import SIZE, arrange, contact_sheet, render, sample_scene, scene_at
from recipes.emoji.sprites import NOTO_COLOR_EMOJI, DrawnSprites, FontSprites, SpriteSheet, tint
from recipes.emoji.vocabulary import COLORS, RELATIONS, THINGS
from sana_judge import Detection, geneval

CLDR = Path("/usr/share/unicode/cldr/common/annotations")

needs_font = pytest.mark.skipif(not NOTO_COLOR_EMOJI.exists(), reason="no Noto Color Emoji here")
needs_cldr = pytest.mark.skipif(not CLDR.exists(), reason="no CLDR annotations here")

DEMO = Content(MIXTURE, (Group("apple", 2, "red"), Group("cat")), "left of")


@pytest.fixture(scope="module", params=["drawn", pytest.param("font", marks=[needs_font, pytest.mark.emoji_font])])
def sprites(request):
    return SpriteSheet(DrawnSprites() if request.param == "drawn" else FontSprites())


@pytest.fixture(scope="module")
def drawn():
    return SpriteSheet(DrawnSprites())


def everything_in(scene):
    """What a perfect detector would see."""
    return [Detection(name=item.name, score=1.0, box=item.box, color=item.color) for item in scene.objects]


def test_the_world_is_as_large_as_promised():
    assert len(THINGS) == 24
    assert len(COLORS) == 8
    assert len(RELATIONS) == 4
    for column in zip(*[(t.emoji, t.name, t.chinese) for t in THINGS.values()], strict=True):
        assert len(set(column)) == 24


def test_a_scene_is_a_pure_function_of_seed_and_index(drawn):
    assert scene_at(7, drawn) == scene_at(7, SpriteSheet(DrawnSprites()))
    assert scene_at(7, drawn) != scene_at(8, drawn)
    assert scene_at(7, drawn) != scene_at(7, drawn, seed=1)


def test_the_sequence_of_scenes_never_changes(drawn):
    # A digest of 200 captions: a change here means that published runs can no longer be repeated.
    captions = "\n".join(scene_at(index, drawn).caption for index in range(200))
    assert hashlib.sha256(captions.encode()).hexdigest()[:16] == "d92f740e6e5fdc80"


def test_the_rules_agree_with_every_scene(sprites):
    for index in range(1000):
        scene = scene_at(index, sprites)
        verdict = geneval.evaluate(everything_in(scene), scene.metadata)
        assert verdict.correct, (scene.caption, verdict.reason)


@pytest.mark.parametrize("relation", RELATIONS)
def test_two_left_of_two_holds_for_every_pair_of_sprites(sprites, relation):
    rng = random.Random(0)
    for one in THINGS:
        for two in THINGS:
            scene = arrange(Content(MIXTURE, (Group(one, 2), Group(two, 2)), relation), sprites, rng)
            if one != two:
                assert geneval.evaluate(everything_in(scene), scene.metadata).correct


def test_boxes_contain_every_pixel_that_is_not_background(sprites):
    for index in range(300):
        scene = scene_at(index, sprites)
        outside = (render(scene, sprites) != scene.background).any(axis=-1)
        for item in scene.objects:
            x0, y0, x1, y1 = item.box
            assert 0 <= x0 < x1 <= SIZE
            assert 0 <= y0 < y1 <= SIZE
            assert outside[y0:y1, x0:x1].any()
            outside[y0:y1, x0:x1] = False
        assert not outside.any()


def test_boxes_are_tight(sprites):
    for index in range(300):
        scene = scene_at(index, sprites)
        pixels = render(scene, sprites) != scene.background
        x0, y0, x1, y1 = scene.objects[0].box
        inside = pixels[y0:y1, x0:x1].any(axis=-1)
        # Two pixels: what is fainter than one sixteenth on the rim may equal the background after rounding.
        assert inside.any(axis=0)[:2].any()
        assert inside.any(axis=0)[-2:].any()
        assert inside.any(axis=1)[:2].any()
        assert inside.any(axis=1)[-2:].any()


def test_objects_never_overlap(sprites):
    for index in range(1000):
        boxes = [item.box for item in scene_at(index, sprites).objects]
        for number, one in enumerate(boxes):
            for two in boxes[:number]:
                assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]


def test_training_never_shows_a_held_out_fact(drawn):
    for index in range(20_000):
        facts = scene_at(index, drawn).content.facts
        assert not any(map(is_held_out, facts)), facts


def test_training_shows_every_object_colour_and_relation():
    rng = random.Random(0)
    contents = [sample_training_content(rng, tag) for _ in range(500) for tag in TAGS]
    groups = [group for content in contents for group in content.groups]
    assert {group.name for group in groups} == set(THINGS)
    assert {group.color for group in groups} == {None, *COLORS}
    assert {group.count for group in groups} == {1, 2, 3, 4}
    assert {content.relation for content in contents} == {None, *RELATIONS}


def test_about_an_eighth_of_each_family_is_held_out():
    pairs = [(Group(one), Group(two)) for one in THINGS for two in THINGS if one != two]
    facts = {fact for pair in pairs for relation in RELATIONS for fact in Content("position", pair, relation).facts}
    facts |= {fact for name in THINGS for color in COLORS for fact in Content("", (Group(name, color=color),)).facts}
    for family, share in (("color", (24, 192)), ("pair", (30, 276)), ("left of", (79, 552)), ("above", (75, 552))):
        of_family = [fact for fact in facts if fact.startswith(family)]
        assert (sum(map(is_held_out, of_family)), len(of_family)) == share


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_24_prompts_and_holds_out_what_it_is_about(task):
    contents = evaluation_contents(task)
    assert len({caption(content, "english") for content in contents}) == 24
    for content in contents:
        assert content.tag == task
        held_out = list(map(is_held_out, content.facts))
        assert sum(held_out) == (task not in ("single_object", "counting"))
        assert not any(held_out[:-1])


def test_both_wordings_of_a_relation_are_one_fact():
    cat, dog = Group("cat"), Group("dog")
    for relation, opposite in (("left of", "right of"), ("above", "below")):
        one, two = Content("position", (cat, dog), relation), Content("position", (dog, cat), opposite)
        assert set(one.facts) == set(two.facts)
        assert set(one.facts) != set(Content("position", (cat, dog), opposite).facts)


def test_the_demo_prompt_in_four_forms():
    assert [caption(DEMO, language) for language in LANGUAGES] == [
        "two red apples left of a cat",
        "两个红色的苹果在猫的左边",
        "two red 苹果 left of a 猫",
        "🟥🍎🟥🍎 left of 🐈",
    ]


@pytest.mark.parametrize(
    ("content", "english", "chinese", "emoji"),
    [
        (Content("single_object", (Group("umbrella"),)), "an umbrella", "一把伞", "☂️"),
        (Content("colors", (Group("cat", color="orange"),)), "an orange cat", "一只橙色的猫", "🟧🐈"),
        (Content("colors", (Group("umbrella", color="red"),)), "a red umbrella", "一把红色的伞", "🟥☂️"),
        (Content("counting", (Group("fish", 3),)), "three fish", "三条鱼", "🐟🐟🐟"),
        (Content("two_object", (Group("dog"), Group("key"))), "a dog and a key", "一只狗和一把钥匙", "🐕🔑"),
        (
            Content("position", (Group("car"), Group("tree")), "below"),
            "a car below a tree",
            "一辆汽车在树的下面",
            "🚗 below 🌳",
        ),
    ],
)
def test_captions_say_what_is_there(content, english, chinese, emoji):
    assert caption(content, "english") == english
    assert caption(content, "chinese") == chinese
    assert caption(content, "emoji") == emoji


def test_different_contents_are_worded_differently():
    contents = [content for task in TASKS for content in evaluation_contents(task, 200)]
    for language in LANGUAGES:
        assert len({caption(content, language) for content in contents}) == len(contents)


def test_the_four_forms_differ_and_mixed_has_both_scripts(drawn):
    for index in range(500):
        forms = [caption(scene_at(index, drawn).content, language) for language in LANGUAGES]
        assert len(set(forms)) == 4
        mixed = forms[LANGUAGES.index("mixed")]
        assert any("a" <= letter <= "z" for letter in mixed)
        assert any("\u4e00" <= letter <= "\u9fff" for letter in mixed)


def test_a_language_or_a_tag_can_be_asked_for(drawn):
    scene = sample_scene(random.Random(0), drawn, tag="counting", language="chinese")
    assert scene.content.tag == "counting"
    assert scene.caption == caption(scene.content, "chinese")


def test_an_unknown_language_or_tag_is_an_error(drawn):
    with pytest.raises(ValueError, match="klingon"):
        caption(DEMO, "klingon")
    with pytest.raises(ValueError, match="colours"):
        sample_scene(random.Random(0), drawn, tag="colours")


def test_metadata_is_genevals_own():
    content = Content("position", (Group("dog"), Group("teddy")), "right of")
    assert content.metadata("a dog right of a teddy") == {
        "tag": "position",
        "include": [{"class": "teddy", "count": 1}, {"class": "dog", "count": 1, "position": ["right of", 0]}],
        "prompt": "a dog right of a teddy",
    }
    assert Content("counting", (Group("dog", 3),)).metadata("three dogs") == {
        "tag": "counting",
        "include": [{"class": "dog", "count": 3}],
        "exclude": [{"class": "dog", "count": 4}],
        "prompt": "three dogs",
    }


def test_a_record_carries_the_boxes(drawn):
    scene = sample_scene(random.Random(0), drawn, tag="color_attr")
    assert scene.record["boxes"] == [
        {"class": item.name, "color": item.color, "box": list(item.box)} for item in scene.objects
    ]


def test_every_sprite_can_be_told_from_every_other_in_black(sprites):
    # Same colour and same square canvas, so only shape and shading are left. 2 of 255 is twice what rounding can do.
    pictures = []
    for name in THINGS:
        canvas = np.zeros((48, 48), np.float32)
        alpha = np.asarray(sprites(name, "black", 48), dtype=np.float32)
        canvas[: alpha.shape[0], : alpha.shape[1]] = alpha[..., 3] * (1 + alpha[..., 0] / 255)
        pictures.append(canvas)
    for number, one in enumerate(pictures):
        assert all(np.abs(one - two).mean() > 2 for two in pictures[:number])


def test_tinting_keeps_the_shape_and_centres_on_the_colour(sprites):
    rgb = COLORS["blue"].rgb
    original = sprites("guitar", None, 96)
    tinted = tint(original, rgb)
    assert tinted.getchannel("A").tobytes() == original.getchannel("A").tobytes()
    pixels = np.asarray(tinted, dtype=np.float32)
    mean = pixels[pixels[..., 3] > 128][:, :3].mean(axis=0)
    # Shades lie between 0.45 of the colour and 0.45 of the way to white; their mean is no further than half of that.
    assert np.all(np.abs(mean - rgb) <= 0.275 * np.maximum(rgb, 255 - np.array(rgb)))


def test_a_scene_takes_under_two_milliseconds(drawn):
    for index in range(300):
        render(scene_at(index, drawn), drawn)
    start = time.process_time()
    for index in range(300):
        render(scene_at(index, drawn), drawn)
    assert (time.process_time() - start) / 300 < 0.002


def test_a_contact_sheet_holds_every_scene(drawn):
    pictures = [Image.fromarray(render(scene_at(index, drawn), drawn)) for index in range(5)]
    sheet = contact_sheet(pictures, ["a rather long caption that has to be wrapped"] * 5, columns=3)
    assert sheet.size == (3 * (SIZE + 12), 2 * (SIZE + 52))


def test_a_missing_font_names_the_package(tmp_path):
    with pytest.raises(FileNotFoundError, match="fonts-noto-color-emoji"):
        FontSprites(tmp_path / "absent.ttf")


# The vocabulary is shorter than CLDR's names where those name a variety, a colour or a part of the picture.
SHORTER = {
    "apple": ("red apple", "红苹果"),
    "car": ("automobile", "汽车"),
    "tree": ("deciduous tree", "落叶树"),
    "book": ("closed book", "合上的书本"),
    "clock": ("alarm clock", "闹钟"),
    "cup": ("hot beverage", "热饮"),
    "hat": ("top hat", "礼帽"),
    "boat": ("sailboat", "帆船"),
    "heart": ("red heart", "红心"),
}


@needs_cldr
@pytest.mark.emoji_font
@pytest.mark.parametrize("column", [0, 1], ids=["english", "chinese"])
def test_names_are_cldrs_or_a_stated_shortening(column):
    annotations = ElementTree.parse(CLDR / ("en.xml", "zh.xml")[column]).iter("annotation")
    names = {note.get("cp"): note.text for note in annotations if note.get("type") == "tts"}
    for thing in THINGS.values():
        ours = SHORTER.get(thing.name, (thing.name, thing.chinese))[column]
        assert names[thing.emoji.removesuffix("\ufe0f")] == ours
