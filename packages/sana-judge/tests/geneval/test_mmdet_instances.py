import numpy as np
import pytest
import torch

from sana_judge.geneval.mmdet_instances import instances, resize_masks


def oracle(class_logits: np.ndarray, mask_logits: np.ndarray, limit: int) -> list[tuple]:
    """(label, score, box, mask) of every instance by hand, best class probability first."""
    exponentials = np.exp(class_logits.astype(np.float64))
    pairs = []
    for query, row in enumerate(exponentials):
        for label in range(len(row) - 1):
            pairs.append((row[label] / row.sum(), query, label))
    found = []
    for probability, query, label in sorted(pairs, reverse=True)[:limit]:
        logits = mask_logits[query].astype(np.float64)
        inside = [(y, x) for y, x in np.ndindex(logits.shape) if logits[y, x] > 0]
        certainty = sum(1 / (1 + np.exp(-logits[place])) for place in inside) / (len(inside) + 1e-6)
        ys, xs = [y for y, _ in inside] or [0], [x for _, x in inside] or [0]
        box = (min(xs), min(ys), max(xs) + 1, max(ys) + 1) if inside else (0, 0, 0, 0)
        found.append((label, probability * certainty, box, logits > 0))
    return found


def by_label_and_score(found):
    return sorted(found, key=lambda instance: (instance[0], -instance[1]))


def listed(found):
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), found.masks.numpy(), strict=True)
    return [(label, score, tuple(box), mask) for label, score, box, mask in rows]


@pytest.mark.parametrize("limit", [1, 7, 40, 1000])
def test_instances_are_those_of_the_formula(limit):
    rng = np.random.default_rng(0)
    classes, masks = rng.normal(size=(6, 9)).astype(np.float32) * 3, rng.normal(size=(6, 12, 10)).astype(np.float32)
    masks -= rng.uniform(0, 2, size=(6, 1, 1)).astype(np.float32)
    found = by_label_and_score(listed(instances(torch.tensor(classes), torch.tensor(masks), limit=limit)))
    expected = by_label_and_score(oracle(classes, masks, limit))
    assert len(found) == min(limit, 6 * 8)
    for (label, score, box, mask), (its_label, its_score, its_box, its_mask) in zip(found, expected, strict=True):
        assert (label, box) == (its_label, its_box)
        assert score == pytest.approx(its_score, rel=1e-5)  # float32 sums of 120 terms
        assert (mask == its_mask).all()


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        (slice(0, 1), slice(0, 1), (0, 0, 1, 1)),  # one pixel in the corner
        (slice(7, 8), slice(9, 10), (9, 7, 10, 8)),  # and in the opposite one
        (slice(0, 8), slice(0, 10), (0, 0, 10, 8)),  # the whole image
        (slice(3, 4), slice(0, 10), (0, 3, 10, 4)),  # a line from border to border
        (slice(2, 5), slice(4, 6), (4, 2, 6, 5)),
    ],
)
def test_a_box_ends_one_pixel_after_its_mask(rows, columns, box):
    masks = torch.full((1, 8, 10), -1.0)
    masks[0, rows, columns] = 1.0
    assert tuple(instances(torch.tensor([[5.0, 0.0]]), masks).boxes[0].tolist()) == box


def test_an_empty_mask_has_no_box_and_no_score():
    found = instances(torch.tensor([[5.0, 0.0]]), torch.full((1, 8, 10), -1.0))
    assert found.boxes.tolist() == [[0, 0, 0, 0]]
    assert found.scores.tolist() == [0.0]


def test_a_logit_of_zero_is_outside():
    assert not instances(torch.tensor([[5.0, 0.0]]), torch.zeros(1, 2, 2)).masks.any()


def test_a_query_appears_under_every_class_that_is_probable_enough():
    found = instances(torch.tensor([[4.0, 4.0, 0.0], [0.0, -9.0, 9.0]]), torch.ones(2, 2, 2), limit=2)
    assert sorted(found.labels.tolist()) == [0, 1]


def test_masks_are_cut_to_the_image_before_they_are_enlarged():
    # Eight padded columns of which four are image: what lies in the padding must not bleed in.
    logits = torch.full((1, 2, 4), -1.0)
    logits[..., 2:] = 50.0
    masks = resize_masks(logits, padded=(4, 8), seen=(4, 4), size=(8, 8))
    up = torch.nn.functional.interpolate(logits[None], size=(4, 8), mode="bilinear", align_corners=False)
    expected = torch.nn.functional.interpolate(up[..., :4], size=(8, 8), mode="bilinear", align_corners=False)
    assert masks.shape == (1, 8, 8)
    assert torch.equal(masks, expected[0])
    assert masks[..., :4].max() < 0
