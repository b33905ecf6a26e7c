"""English captions in Chinese, mixed and with emoji, by any language model of transformers (SANA-1.5)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from sana_train.data.generation import import_transformers, load, new_texts
from sana_train.data.labellers import Form

INSTRUCTIONS: dict[Form, str] = {
    "chinese": "Translate this image caption into natural Chinese. Keep every object, number, colour and place.",
    "mixed": "Write this image caption again in Chinese and English mixed, as bilingual people write: some words in "
    "Chinese, some in English. Keep every object, number, colour and place.",
    "emoji": "Write this image caption again with emoji in place of as many words as possible. Keep every object, "
    "number, colour and place.",
}
ONLY = "Answer with the caption alone, on one line."


class TransformersRewriter:
    """A language model that is given an instruction for each form, and the caption.

    Attributes:
        identity: what a manifest's pass is resumed by.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, max_new_tokens: int = 256):
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.identity = {"model": name, "max_new_tokens": max_new_tokens}
        tokenizer.padding_side = "left"  # what is generated follows the last token
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        max_new_tokens: int = 256,
    ) -> Self:
        """Load a language model and its tokenizer from a folder or the Hub, such as "Qwen/Qwen2.5-7B-Instruct".

        Raises:
            ImportError: transformers is not installed.
            OSError: there is no such model, or it has no safetensors.
            ValueError: it is not a language model, or needs code of its own.
        """
        transformers = import_transformers(cls.__name__)
        kind = transformers.AutoModelForCausalLM
        model = load(kind, repo_or_dir, revision=revision, dtype=dtype, device=device)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(repo_or_dir), revision=revision)
        return cls(model, tokenizer, name=str(repo_or_dir), max_new_tokens=max_new_tokens)

    def __call__(self, captions: Sequence[str], form: Form, /) -> list[str]:
        """The captions in another form."""
        chats = self.tokenizer.chat_template is not None
        texts = [self._asked(f"{INSTRUCTIONS[form]} {ONLY}\n\n{caption}", chats=chats) for caption in captions]
        # A chat template writes BOS itself.
        inputs = self.tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=not chats)
        return new_texts(self.model, self.tokenizer, inputs, max_new_tokens=self.max_new_tokens)

    def _asked(self, text: str, *, chats: bool) -> str:
        if not chats:
            return f"{text}\n"
        message = [{"role": "user", "content": text}]
        return str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
