"""GenEval's detector on transformers: Mask2Former, with the pixels and the instances of mmdetection."""

from collections.abc import Sequence
from importlib.util import find_spec
from os import PathLike
from typing import Self

import torch
from PIL import Image
from transformers import Mask2FormerForUniversalSegmentation

from sana_judge.checkpoint_reading import fingerprint
from sana_judge.geneval.coco_classes import COCO_CLASSES
from sana_judge.geneval.mmdet_instances import Instances, instances, resize_masks
from sana_judge.geneval.mmdet_pixels import Pixels, normalized, padded_size, resized
from sana_judge.geneval.rules import Detection
from sana_judge.image_reading import ImageLike, read_image
from sana_judge.scorers.model_loading import find_model, load_model

CHECKPOINT = "facebook/mask2former-swin-small-coco-instance"


class Mask2FormerDetector:
    """Finds objects of COCO's 80 classes, with their masks.

    GenEval's own weights are mmdetection's training of the same architecture (Swin-S, 100 queries, 50 epochs);
    facebook/mask2former-swin-small-coco-instance is the authors' own training. Images and queries are treated as
    mmdetection 2.27 does, so what differs is the weights: scores are near GenEval's, and not equal.
    """

    def __init__(self, model: Mask2FormerForUniversalSegmentation, *, revision: str = "", min_score: float = 0.05):
        """Takes what `from_pretrained` reads.

        Raises ValueError where the model does not tell COCO's 80 classes apart, as the panoptic ones, with 133.
        """
        classes = model.class_predictor.out_features - 1
        if classes != len(COCO_CLASSES):
            raise ValueError(
                f"the model tells {classes} classes apart; it must be the 80 of COCO instances, such as {CHECKPOINT}"
            )
        self.model = model
        self.revision = revision
        self.min_score = min_score

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | PathLike[str] = CHECKPOINT,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        min_score: float = 0.05,
    ) -> Self:
        """Loads a model of COCO instances from the Hub or a folder; dtype None is the file's, device None the CPU.

        Detections below `min_score` are dropped, with their masks; GenEval's rules drop those up to 0.3.

        Raises:
            FileNotFoundError: There is no such model, or it has no weights: says what to fetch.
            ImportError: scipy is missing, without which transformers builds no Mask2Former.
            ValueError: It is damaged, or of another kind or number of classes.
        """
        if find_spec("scipy") is None:
            raise ImportError("Mask2FormerDetector needs scipy: pip install 'sana-judge[geneval]'")
        root = find_model(repo_or_dir, revision=revision, kinds=("mask2former",), example=CHECKPOINT)
        model = load_model(Mask2FormerForUniversalSegmentation, root, dtype=dtype, device=device)
        return cls(model, revision=f"mask2former {fingerprint(root)} {dtype} {min_score}", min_score=min_score)

    def __call__(self, images: Sequence[ImageLike], /) -> list[list[Detection]]:
        """Returns the detections of each image, in the image's pixels; images of a size are seen in one forward.

        Raises FloatingPointError where the model gives NaN or infinite numbers, and what `read_image` raises.
        """
        read = [read_image(image) for image in images]
        pixels = [resized(image) for image in read]
        found: list[list[Detection]] = [[] for _ in read]
        for size in dict.fromkeys(map(padded_size, pixels)):
            places = [place for place, seen in enumerate(pixels) if padded_size(seen) == size]
            group = self._detect([pixels[place] for place in places], [read[place] for place in places])
            for place, detections in zip(places, group, strict=True):
                found[place] = detections
        return found

    @torch.inference_mode()
    def _detect(self, pixels: Sequence[Pixels], images: Sequence[Image.Image]) -> list[list[Detection]]:
        x = normalized(pixels).to(self.model.device, self.model.dtype)  # (B, 3, H, W)
        output = self.model(pixel_values=x)
        classes, masks = output.class_queries_logits, output.masks_queries_logits  # (B, Q, 81), (B, Q, H/4, W/4)
        if not (classes.isfinite().all() and masks.isfinite().all()):
            raise FloatingPointError("the detector gave NaN or infinite logits: load it with dtype=torch.float32")
        found = []
        for its_classes, its_masks, seen, image in zip(classes, masks, pixels, images, strict=True):
            height, width = seen.shape[:2]
            whole = resize_masks(
                its_masks.float(), padded=padded_size(seen), seen=(height, width), size=(image.height, image.width)
            )  # (Q, image height, image width)
            found.append(self._detections(instances(its_classes, whole)))
        return found

    def _detections(self, found: Instances) -> list[Detection]:
        sure = (found.scores > self.min_score).nonzero().flatten()
        masks = found.masks[sure].cpu().numpy()
        labels, scores, boxes = (values[sure].tolist() for values in (found.labels, found.scores, found.boxes))
        return [
            Detection(name=COCO_CLASSES[label], score=score, box=(x0, y0, x1, y1), mask=mask)
            for label, score, (x0, y0, x1, y1), mask in zip(labels, scores, boxes, masks, strict=True)
        ]
