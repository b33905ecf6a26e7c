"""Any vision-language model of transformers, as what Soft-TIFA asks about atoms: how probable each answer is."""

from collections.abc import Sequence
from os import PathLike
from typing import Self

import torch

from sana_judge.image_reading import ImageLike, read_image
from sana_judge.judge_call import check_batch_size
from sana_judge.scorers.answering_vlm import CHECKPOINT, AnsweringVLM


class VLMAnswers:
    """Probabilities of answers' first words, the sum over those spellings that are one token of the model.

    GenEval 2 published Qwen/Qwen3-VL-8B-Instruct's; other models' numbers do not compare with them.
    """

    def __init__(self, model: AnsweringVLM, *, batch_size: int = 8):
        """Takes what `from_pretrained` reads."""
        self.model = model
        self.batch_size = check_batch_size(batch_size)

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | PathLike[str] = CHECKPOINT,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 8,
    ) -> Self:
        """Loads a model from the Hub or a folder; raises what `AnsweringVLM.from_pretrained` raises."""
        model = AnsweringVLM.from_pretrained(repo_or_dir, revision=revision, dtype=dtype, device=device)
        return cls(model, batch_size=batch_size)

    def __call__(self, image: ImageLike, asked: Sequence[tuple[str, Sequence[str]]], /) -> list[float]:
        """Returns, per (question, spellings), the probability that the answer begins with any of the spellings.

        Raises ValueError where none of the spellings is one token, and what `read_image` raises.
        """
        read = read_image(image)
        found: list[float] = []
        for start in range(0, len(asked), self.batch_size):
            batch = asked[start : start + self.batch_size]
            questions = [self.model.clean(question) for question, _ in batch]
            shares = self.model.ask(questions, [read] * len(batch)).double().softmax(dim=1)  # (B, V)
            for row, (_, spellings) in zip(shares, batch, strict=True):
                found.append(float(row[self._tokens(spellings)].sum()))
        return found

    def _tokens(self, spellings: Sequence[str]) -> list[int]:
        encoded = (self.model.tokenizer.encode(spelling, add_special_tokens=False) for spelling in spellings)
        unknown = self.model.tokenizer.unk_token_id
        tokens = {ids[0] for ids in encoded if len(ids) == 1 and ids[0] != unknown}
        if not tokens:
            raise ValueError(f"none of {list(spellings)} is one token of this model: use another")
        return sorted(tokens)
