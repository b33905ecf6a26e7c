"""From Mask2Former's queries to instances as mmdetection 2 makes them (MaskFormerFusionHead), not as transformers."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_PER_IMAGE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Instances:
    """Instances of one image, in no order: labels (I,), scores (I,), boxes (I, 4) in pixels, masks (I, H, W)."""

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor


def resize_masks(logits: Tensor, *, padded: tuple[int, int], seen: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Mask logits (Q, h, w) in the pixels of the image: up to `padded`, cut to `seen`, and on to its own `size`."""
    logits = F.interpolate(logits[None], size=padded, mode="bilinear", align_corners=False)
    return F.interpolate(logits[..., : seen[0], : seen[1]], size=size, mode="bilinear", align_corners=False)[0]


def instances(class_logits: Tensor, mask_logits: Tensor, *, limit: int = MAX_PER_IMAGE) -> Instances:
    """The `limit` most probable pairs of query and class: (Q, classes + 1) and (Q, H, W), logits, to instances.

    The last class is "nothing". A score is the probability of the class times the mean probability of the mask's
    pixels; a query may appear under several classes. The box holds the whole mask, its last pixel included: two
    corners of which the second is outside; that of an empty mask is all zeros, and its score is 0.
    """
    probabilities = class_logits.float().softmax(-1)[:, :-1]  # (Q, classes)
    scores, pairs = probabilities.flatten().topk(min(limit, probabilities.numel()), sorted=False)  # (I,)
    queries, labels = pairs // probabilities.shape[1], pairs % probabilities.shape[1]
    used, places = torch.unique(queries, return_inverse=True)  # masks are the large part: each is looked at once
    logits = mask_logits[used].float()  # (U, H, W)
    masks = logits > 0
    certainty = (logits.sigmoid() * masks).sum((1, 2)) / (masks.sum((1, 2)) + 1e-6)  # (U,)
    return Instances(
        labels=labels,
        scores=scores * certainty[places],
        boxes=_boxes(masks)[places],
        masks=masks[places],
    )


def _boxes(masks: Tensor) -> Tensor:
    """The boxes (I, 4) around masks (I, H, W), float32."""
    columns, rows = _extent(masks.any(1)), _extent(masks.any(2))
    return torch.stack([columns[0], rows[0], columns[1], rows[1]], dim=1).float()


def _extent(present: Tensor) -> tuple[Tensor, Tensor]:
    """The first place (I,) that is set along (I, length), and the one after the last; two zeros where none is."""
    flags = present.int()
    first, beyond = flags.argmax(1), present.shape[1] - flags.flip(1).argmax(1)
    return first, beyond * present.any(1)
