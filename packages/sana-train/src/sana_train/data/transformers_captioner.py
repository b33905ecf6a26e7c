"""Captions by any image-to-text model of transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from sana_train.data.generation import import_transformers, load, new_texts

if TYPE_CHECKING:
    from PIL import Image

PROMPT = "Describe this image in detail: its objects, their number, colours and places, the background and the style."


class TransformersCaptioner:
    """A vision-language model, which is asked `prompt` with each image, or a plain captioner such as BLIP.

    Attributes:
        identity: what a manifest's pass is resumed by.
    """

    def __init__(self, model: Any, processor: Any, *, name: str, prompt: str | None = None, max_new_tokens: int = 256):
        self.model = model
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.chats = getattr(processor, "chat_template", None) is not None
        self.prompt = PROMPT if prompt is None and self.chats else prompt
        self.identity = {"model": name, "prompt": self.prompt, "max_new_tokens": max_new_tokens}
        if getattr(processor, "tokenizer", None) is not None:
            processor.tokenizer.padding_side = "left"  # what is generated follows the last token

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        prompt: str | None = None,
        max_new_tokens: int = 256,
    ) -> Self:
        """Load a model and its processor from a folder or the Hub.

        Args:
            repo_or_dir: such as "Qwen/Qwen2.5-VL-3B-Instruct" or "Salesforce/blip-image-captioning-base".
            revision: branch, tag or commit on the Hub.
            dtype: of the weights; None keeps that of the files.
            device: where to run.
            prompt: what to ask; None asks models that chat for a detailed description, and others nothing.
            max_new_tokens: longest caption.

        Raises:
            ImportError: transformers is not installed.
            OSError: there is no such model, or it has no safetensors.
            ValueError: the model writes no text, or needs code of its own.
        """
        transformers = import_transformers(cls.__name__)
        kind = transformers.AutoModelForImageTextToText
        model = load(kind, repo_or_dir, revision=revision, dtype=dtype, device=device)
        processor = transformers.AutoProcessor.from_pretrained(str(repo_or_dir), revision=revision)
        return cls(model, processor, name=str(repo_or_dir), prompt=prompt, max_new_tokens=max_new_tokens)

    def __call__(self, images: "Sequence[Image.Image]", /) -> list[str]:
        """One caption per image."""
        return new_texts(self.model, self.processor, self._inputs(images), max_new_tokens=self.max_new_tokens)

    def _inputs(self, images: "Sequence[Image.Image]") -> Any:
        if not self.chats:
            text = {} if self.prompt is None else {"text": [self.prompt] * len(images)}
            return self.processor(images=list(images), return_tensors="pt", **text)
        content = [{"type": "image"}, {"type": "text", "text": self.prompt}]
        asked = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        nested = [[image] for image in images]
        return self.processor(images=nested, text=[asked] * len(images), padding=True, return_tensors="pt")
