"""What a sampler's steps have in common: captions read once per picture, padding dropped, one-token captions folded.

B captions, L their tokens, C their channels, D width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# A token whose score is biased this far below the largest has weight exp(-1000) = 0 in every dtype.
_NEGLIGIBLE = 1000.0
_LENGTH_STEP = 16  # so that captions of similar length share a CUDA graph


class CaptionMemory(NamedTuple):
    """What the cross-attention of one block needs of B captions, of which the first F are one token long.

    Attributes:
        keys: Of the other A = B - F captions (A, heads, L, D / heads).
        values: As the keys.
        bias: Added to their scores (A, 1, 1, L); None adds nothing.
        constants: What the whole attention returns at every image token for the first F: a softmax over one token
            is 1 whatever the query (F, 1, D). None where F is 0.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None = None
    constants: Tensor | None = None


class Conditioning(NamedTuple):
    """The `CaptionMemory` of every block; fields as there, all but the bias with a first dimension over blocks.

    Valid as long as the weights are those that it was computed from.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None
    constants: Tensor | None

    @property
    def batch(self) -> int:
        """Captions in it, B."""
        return self.keys.shape[1] + (0 if self.constants is None else self.constants.shape[1])

    def memories(self) -> Iterator[CaptionMemory]:
        """Yields what each block attends to, in order."""
        for index, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            yield CaptionMemory(keys, values, self.bias, None if self.constants is None else self.constants[index])


def stack_memories(memories: list[CaptionMemory]) -> Conditioning:
    """Returns the memories of all blocks as one conditioning."""
    keys, values, biases, constants = zip(*memories, strict=True)
    folded = None if constants[0] is None else torch.stack(constants)
    return Conditioning(torch.stack(keys), torch.stack(values), biases[0], folded)


def drop_padding(caption: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
    """Returns the captions without the tokens that none of them attends to, their bias, and how many can be folded.

    Tokens that count move to the front, which an attention without positions does not see; what is left is as long
    as the longest caption, rounded up. Those that can be folded are the leading captions of a single token, such as
    the empty negative prompts in front of a batch.

    Args:
        caption: States of the text encoder (B, L, C).
        bias: What is added to the scores of their tokens (B, 1, 1, L), or None.
    """
    if bias is None:
        return caption, None, len(caption) if caption.shape[1] == 1 else 0
    bias = bias[:, 0, 0]  # (B, L)
    counts = bias > bias.amax(1, keepdim=True) - _NEGLIGIBLE  # (B, L)
    lengths = counts.sum(1).tolist()
    folded = next((row for row, length in enumerate(lengths) if length > 1), len(lengths))
    longest = max(lengths[folded:], default=1)
    kept = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, caption.shape[1])
    order = counts.byte().argsort(dim=1, descending=True, stable=True)[:, :kept]  # (B, kept)
    caption = caption.gather(1, order[..., None].expand(-1, -1, caption.shape[2]))  # (B, kept, C)
    bias = bias.gather(1, order)[folded:, None, None]  # (A, 1, 1, kept)
    return caption, bias if bias.any() else None, folded
