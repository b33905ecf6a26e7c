import numpy as np
import pytest
import torch
from PIL import Image

from sana_judge.geneval import COLORS, CLIPColors, Detection
from sana_judge.geneval.clip_colors import object_crop


@pytest.fixture(scope="module")
def namer(clip_folder):
    return CLIPColors.from_pretrained(clip_folder, batch_size=3)


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def boxes(name, count, *, seed=0):
    draw = np.random.default_rng(seed)
    corners = [(int(x), int(y)) for x, y in draw.integers(0, 20, (count, 2))]
    sizes = [(int(w), int(h)) for w, h in draw.integers(8, 20, (count, 2))]
    both = zip(corners, sizes, strict=True)
    return [Detection(name=name, score=0.9, box=(x, y, x + w, y + h)) for (x, y), (w, h) in both]


def by_hand(namer, crop, name):
    """The colour of one crop, a sentence at a time."""
    model, tokenizer = namer.model, namer._tokenizer

    def unit(x):
        return x / x.norm()

    def read(sentence):
        tokens = tokenizer(sentence, return_tensors="pt").input_ids  # in transformers 4 it has token types too
        return unit(model.text_projection(model.text_model(tokens).pooler_output)[0])

    short = min(crop.size)
    crop = crop.resize((32 * crop.width // short, 32 * crop.height // short), Image.Resampling.BICUBIC)
    left, top = round((crop.width - 32) / 2), round((crop.height - 32) / 2)
    pixels = np.asarray(crop.crop((left, top, left + 32, top + 32)), dtype=np.float64) / 255
    pixels = (pixels - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    x = torch.tensor(pixels).permute(2, 0, 1)[None].float()
    seen = unit(model.visual_projection(model.vision_model(x).pooler_output)[0])
    likeness = []
    for color in COLORS:
        sentences = (
            f"a photo of a {color} {name}",
            f"a photo of a {color}-colored {name}",
            f"a photo of a {color} object",
        )
        likeness.append(seen @ unit(torch.stack([read(sentence) for sentence in sentences]).mean(0)))
    return COLORS[int(torch.stack(likeness).argmax())]


@torch.no_grad()
def test_colours_are_the_nearest_by_hand(namer, picture):
    objects = boxes("cat", 4) + boxes("dog", 4, seed=1)
    named = namer(picture, objects)
    assert named == [by_hand(namer, picture.crop(seen.box), seen.name) for seen in objects]
    assert len(set(named)) > 1


def test_an_object_stands_alone_on_grey():
    picture = Image.new("RGB", (4, 3), "red")
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 1:3] = True
    crop = object_crop(picture, Detection(name="cat", score=0.9, box=(1.0, 0.0, 4.0, 2.0), mask=mask))
    grey, red = (153, 153, 153), (255, 0, 0)
    assert crop.size == (3, 2)
    assert list(crop.getdata() if not hasattr(crop, "get_flattened_data") else crop.get_flattened_data()) == [
        *(grey, grey, grey),
        *(red, red, grey),
    ]


def test_without_a_mask_the_box_is_shown_as_it_is(picture):
    crop = object_crop(picture, Detection(name="cat", score=0.9, box=(3.4, 2.6, 10.0, 9.0)))
    assert crop.tobytes() == picture.crop((3, 3, 10, 9)).tobytes()


def test_a_box_reaching_beyond_the_image_is_black_there(picture):
    crop = object_crop(picture, Detection(name="cat", score=0.9, box=(-2, 0, 2, 4)))
    assert crop.getpixel((0, 0)) == (0, 0, 0)
    assert crop.getpixel((2, 0)) == picture.getpixel((0, 0))


def test_what_does_not_fit_is_refused(picture):
    with pytest.raises(ValueError, match=r"mask of a cat is \(2, 2\), its image \(40, 60\)"):
        object_crop(picture, Detection(name="cat", score=0.9, box=(0, 0, 2, 2), mask=np.ones((2, 2), dtype=bool)))
    with pytest.raises(ValueError, match="of a cat does not hold a pixel"):
        object_crop(picture, Detection(name="cat", score=0.9, box=(3, 3, 3, 8)))


def test_no_objects_are_no_colours(namer, picture):
    assert namer(picture, []) == []


def test_numbers_that_are_none_are_said(clip_folder, picture):
    broken = CLIPColors.from_pretrained(clip_folder)
    torch.nn.init.constant_(broken.model.visual_projection.weight, float("nan"))
    with pytest.raises(FloatingPointError, match=r"likeness to the colours is .*nan.* must be finite"):
        broken(picture, boxes("cat", 1))


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="openai/clip-vit-large-patch14"):
        CLIPColors.from_pretrained(tmp_path / "none")
