import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Mask2FormerForUniversalSegmentation

from sana_judge.geneval import COCO_CLASSES, Mask2FormerDetector
from sana_judge.geneval.mmdet_pixels import normalized, resized

# Long and narrow: seen at 1333 pixels the long way, it stays small the other.
SIZE = (500, 20)


@pytest.fixture(scope="module")
def picture():
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def detector(mask2former_folder):
    return Mask2FormerDetector.from_pretrained(mask2former_folder, min_score=0.0)


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """PyTorch's align_corners=False, by hand, in double precision."""
    for axis, length in ((0, height), (1, width)):
        image = np.moveaxis(image, axis, 0)
        centre = ((np.arange(length) + 0.5) * len(image) / length - 0.5).clip(0, None)
        first = np.floor(centre).astype(int)
        second = np.minimum(first + 1, len(image) - 1)
        share = (centre - first).reshape(-1, *[1] * (image.ndim - 1))
        image = np.moveaxis(image[first] * (1 - share) + image[second] * share, 0, axis)
    return image


def test_detections_are_those_of_mmdetection_by_hand(detector, picture):
    pixels = resized(picture)
    with torch.no_grad():
        output = detector.model(normalized([pixels]))
    classes = output.class_queries_logits[0].double().softmax(-1)[:, :-1].numpy()
    padded = normalized([pixels]).shape[-2:]
    expected = {}
    for place in np.argsort(-classes, axis=None)[:100]:
        query, label = np.unravel_index(place, classes.shape)
        logits = bilinear(output.masks_queries_logits[0, query].double().numpy(), *padded)
        logits = bilinear(logits[: pixels.shape[0], : pixels.shape[1]], SIZE[1], SIZE[0])
        if (inside := logits > 0).any():
            score = classes[query, label] * (1 / (1 + np.exp(-logits[inside]))).sum() / (inside.sum() + 1e-6)
            ys, xs = inside.nonzero()
            expected[COCO_CLASSES[label], query] = (score, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), inside)
    found = sorted(detector([picture])[0], key=lambda seen: (seen.name, -seen.score))
    by_hand = sorted(((name, *facts) for (name, _), facts in expected.items()), key=lambda row: (row[0], -row[1]))
    assert len(found) == len(by_hand) > 20
    for seen, (name, score, box, inside) in zip(found, by_hand, strict=True):
        assert seen.name == name
        # float32 against float64, through two interpolations and a softmax.
        assert seen.score == pytest.approx(score, rel=1e-4)
        assert np.abs(np.subtract(seen.box, box)).max() <= 1  # a pixel whose logit is rounding away from 0
        assert (seen.mask != inside).mean() < 1e-3


def test_a_batch_of_sizes_gives_what_each_image_gives_alone(detector, picture):
    images = [picture, picture.rotate(90, expand=True), picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    together = detector(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector([image])
        assert [seen.name for seen in found] == [seen.name for seen in alone]
        assert [seen.score for seen in found] == pytest.approx([seen.score for seen in alone], rel=1e-4)
        assert all(seen.mask.shape == (image.height, image.width) for seen in found)


def test_weak_detections_are_dropped(mask2former_folder, detector, picture):
    bound = sorted(seen.score for seen in detector([picture])[0])[-3]
    strict = Mask2FormerDetector.from_pretrained(mask2former_folder, min_score=bound)
    assert len(strict([picture])[0]) == 2
    assert strict.revision != detector.revision


def test_no_images_are_no_detections(detector):
    assert detector([]) == []


def test_a_panoptic_model_is_refused(tmp_path, make_mask2former):
    make_mask2former(num_labels=133).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="133 classes apart; it must be the 80 of COCO"):
        Mask2FormerDetector.from_pretrained(tmp_path)


def test_another_model_or_none_is_refused(tmp_path, clip_folder):
    with pytest.raises(ValueError, match=r"type 'clip'; it must be one of .*mask2former"):
        Mask2FormerDetector.from_pretrained(clip_folder)
    with pytest.raises(FileNotFoundError, match="facebook/mask2former-swin-small-coco-instance"):
        Mask2FormerDetector.from_pretrained(tmp_path / "none")


def test_numbers_that_are_none_are_said(make_mask2former, picture):
    model: Mask2FormerForUniversalSegmentation = make_mask2former()
    torch.nn.init.constant_(model.class_predictor.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="NaN"):
        Mask2FormerDetector(model)([picture])


def test_without_scipy_the_remedy_is_said(mask2former_folder, monkeypatch):
    monkeypatch.setattr("sana_judge.geneval.mask2former.find_spec", lambda name: importlib.util.find_spec(f"no_{name}"))
    with pytest.raises(ImportError, match=r"needs scipy: pip install 'sana-judge\[geneval\]'"):
        Mask2FormerDetector.from_pretrained(mask2former_folder)
