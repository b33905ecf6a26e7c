"""Any vision-language model of transformers, asked one question about each of several images."""

import inspect
from collections.abc import Sequence
from os import PathLike
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from sana_judge.float32_logits import float32_logits
from sana_judge.scorers.model_loading import find_model, load_model
from sana_judge.special_tokens import SpecialTokens, single_token

CHECKPOINT = "Qwen/Qwen3-VL-2B-Instruct"


class AnsweringVLM:
    """A vision-language model with its processor, which knows its chat template and how it sees images.

    Its logits are float32, see `float32_logits`.
    """

    def __init__(self, model: Any, processor: Any):
        """Takes a model with logits of words and its processor; the model's head is replaced by a float32 one.

        Raises ValueError where the processor has no chat template.
        """
        if not processor.chat_template:
            raise ValueError(
                f"{type(processor).__name__} has no chat template: use an instruction-tuned model, such as {CHECKPOINT}"
            )
        self.model = model
        self.model.set_output_embeddings(Float32Head(model.get_output_embeddings()))
        self.tokenizer = processor.tokenizer
        self.tokenizer.padding_side = "left"  # so that the answer follows the last token of every row
        self._processor = processor
        self._special = SpecialTokens(self.tokenizer)
        self._last_only = (
            {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        )

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | PathLike[str],
        *,
        revision: str | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> Self:
        """Loads a model and its processor.

        Raises:
            FileNotFoundError: There is no such model, or it has no weights: says what to fetch.
            ImportError: Its processor needs a package that is not installed.
            ValueError: It is damaged, or no vision-language model that transformers knows.
        """
        root = find_model(repo_or_dir, revision=revision, example=CHECKPOINT)
        try:
            load: Any = AutoProcessor.from_pretrained
            processor = load(root, trust_remote_code=False)
        except ImportError as error:
            raise ImportError(
                f"the processor in {root} needs more packages: pip install 'sana-judge[vlm]' ({error})"
            ) from error
        except Exception as error:  # tokenizers raises bare Exceptions
            raise ValueError(f"the processor in {root} is missing or damaged ({error}): download it again") from error
        if not hasattr(processor, "image_processor"):
            raise ValueError(f"{root} does not hold a vision-language model: give one, such as {CHECKPOINT}")
        return cls(load_model(AutoModelForImageTextToText, root, dtype=dtype, device=device), processor)

    def token(self, word: str) -> int:
        """Returns the token of an answer; raises ValueError where it takes several."""
        return single_token(self.tokenizer, word)

    def spellings(self, word: str) -> list[int]:
        """Returns the tokens of an answer in small letters, with a capital and in capitals, at least one.

        Raises ValueError where each of them takes several tokens.
        """
        found = []
        for spelling in (word, word.capitalize(), word.upper()):
            try:
                found.append(self.token(spelling))
            except ValueError:
                continue
        return found or [self.token(word)]

    def clean(self, prompt: str) -> str:
        """Returns a prompt without special tokens."""
        return self._special.remove(prompt)

    @torch.inference_mode()
    def ask(self, questions: Sequence[str], images: Sequence[Image.Image]) -> Tensor:
        """Returns the logits of the first word of each answer: (B, V), float32."""
        texts = [self._chat(question) for question in questions]
        begun = bool(self.tokenizer.bos_token) and texts[0].startswith(self.tokenizer.bos_token)
        inputs = self._processor(
            text=texts,
            images=[[image] for image in images],
            padding=True,
            return_tensors="pt",
            add_special_tokens=not begun,  # some chat templates write the first token, others leave it to the tokenizer
        ).to(self.model.device, self.model.dtype)
        logits: Tensor = self.model(**inputs, **self._last_only).logits[:, -1]  # (B, V)
        return logits.float()

    def _chat(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        # transformers renders templates in Jinja's sandbox.
        text: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return text


class Float32Head(nn.Module):
    """A linear head computed in float32, whatever the dtype of its weights."""

    def __init__(self, head: nn.Linear):
        super().__init__()
        self.weight, self.bias = head.weight, head.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V), float32."""
        logits = float32_logits(x, self.weight)
        return logits if self.bias is None else logits + self.bias.float()
