"""Questions about pictures as tensors: what a training step of a judge sees."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sana_judge.vila.prompt import Question, QuestionWriter

# In place of a word: a vector that the picture gives, and nothing.
PICTURE = -1
PADDING = -2

REMEMBERED = 65_536  # prompts that are not turned into tokens again


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, and how well a picture shows it: 1, 0, or something in between where opinions differ."""

    prompt: str
    label: float
    group: str

    def __post_init__(self) -> None:
        if not 0 <= self.label <= 1:
            raise ValueError(f"the label of {self.prompt!r} is {self.label}; it must be from 0 to 1")


class QuestionBatcher:
    """Turns pictures and what is asked about each into the tensors of a batch.

    key: names of the pictures, B of them.
    tiles (B, T, 3, S, S) uint8, zeros beyond `tile_counts` (B,).
    tokens (B, K, L): the sequence of each question, PICTURE where the picture's vectors come, PADDING after its end
        and in rows without a question.
    labels (B, K), NaN where there is no question; groups (B, K), the same number for the same group.
    """

    def __init__(self, writer: QuestionWriter, *, tile_tokens: int) -> None:
        self._writer = writer
        self._tile_tokens = tile_tokens
        self._written: dict[str, Question] = {}

    def __call__(
        self, keys: Sequence[str], pictures: Sequence[Tensor], asked: Sequence[Sequence[Asked]]
    ) -> dict[str, Any]:
        """The batch of pictures, given as tiles (T_b, 3, S, S), and the questions about each."""
        rows = [
            [self.tokens(question.prompt, len(tiles)) for question in questions]
            for tiles, questions in zip(pictures, asked, strict=True)
        ]
        return {
            "key": list(keys),
            "tiles": pad_sequence(list(pictures), batch_first=True),
            "tile_counts": torch.tensor([len(tiles) for tiles in pictures]),
            "tokens": _padded(rows),
            "labels": torch.tensor(_square([[question.label for question in row] for row in asked], np.nan)),
            "groups": torch.tensor(_square([[_number(question.group) for question in row] for row in asked], 0)),
        }

    def tokens(self, prompt: str, tiles: int) -> list[int]:
        """The whole sequence of a prompt about so many tiles, as `VILAModel.embed_image` joins it."""
        if len(self._written) == REMEMBERED:
            self._written.clear()
        if prompt not in self._written:
            self._written[prompt] = self._writer.write(prompt)
        question, newline = self._written[prompt], self._writer.newline
        picture = ([PICTURE] * self._tile_tokens + newline * 2) * tiles
        return [*question.head, *picture[: -len(newline)], *question.tail]


def _padded(rows: Sequence[Sequence[list[int]]]) -> Tensor:
    """Sequences as (B, K, L)."""
    most = max(map(len, rows))
    longest = max(len(tokens) for row in rows for tokens in row)
    padded = np.full((len(rows), most, longest), PADDING, dtype=np.int64)
    for place, row in enumerate(rows):
        for number, tokens in enumerate(row):
            padded[place, number, : len(tokens)] = tokens
    return torch.from_numpy(padded)


def _square(rows: Sequence[Sequence[float]], filling: float) -> npt.NDArray[Any]:
    most = max(map(len, rows))
    square = [[*row, *[filling] * (most - len(row))] for row in rows]
    return np.array(square, dtype=np.float32 if np.isnan(filling) else np.int64)


def _number(group: str) -> int:
    """63 bits of a group's name: two of a million groups share theirs with a chance of 1e-7."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest()) >> 1
