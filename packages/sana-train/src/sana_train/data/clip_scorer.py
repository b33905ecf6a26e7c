"""How well captions describe images, by CLIP or SigLIP (CLIPScore; the c_i of SANA, section 3.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F

from sana_train.data.generation import import_transformers, load

if TYPE_CHECKING:
    from PIL import Image


class CLIPScorer:
    """100 times the cosine of an image's embedding and a caption's; 25 and more is a good caption in OpenAI's CLIP.

    Captions longer than the model reads, 77 tokens in CLIP, are judged by their beginning.

    Attributes:
        identity: what a manifest's pass is resumed by.
    """

    def __init__(self, model: Any, processor: Any, *, name: str):
        self.model = model
        self.processor = processor
        # SigLIP was trained on texts padded to one length, and reads others differently.
        self.padding = "max_length" if model.config.model_type.startswith("siglip") else True
        self.identity = {"model": name}

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Load a model and its processor from a folder or the Hub, such as "openai/clip-vit-large-patch14".

        Raises:
            ImportError: transformers is not installed.
            OSError: there is no such model, or it has no safetensors.
            ValueError: it does not embed images and texts alike, or needs code of its own.
        """
        transformers = import_transformers(cls.__name__)
        model = load(transformers.AutoModel, repo_or_dir, revision=revision, dtype=dtype, device=device)
        if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
            raise ValueError(f"{repo_or_dir} is a {type(model).__name__}; give a model such as CLIP or SigLIP")
        processor = transformers.AutoProcessor.from_pretrained(str(repo_or_dir), revision=revision)
        return cls(model, processor, name=str(repo_or_dir))

    @torch.inference_mode()
    def __call__(self, images: "Sequence[Image.Image]", captions: Sequence[Sequence[str]], /) -> list[list[float]]:
        """The score of each caption of each image."""
        texts = [text for several in captions for text in several]
        if not texts:
            return [[] for _ in captions]
        inputs = self.processor(
            images=list(images), text=texts, padding=self.padding, truncation=True, return_tensors="pt"
        ).to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        embedded = self.model(**inputs)
        of_images = F.normalize(embedded.image_embeds.float(), dim=-1)  # (images, D)
        of_texts = F.normalize(embedded.text_embeds.float(), dim=-1)
        pairs = zip(torch.split(of_texts, [len(several) for several in captions]), of_images, strict=True)
        return [(100 * several @ image).tolist() for several, image in pairs]
