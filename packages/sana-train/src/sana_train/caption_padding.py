"""Captions as long as the longest of their batch: what no image token attends to need not be read."""

from typing import Any

from torch import Tensor

from sana_train.objective import Batch

_LENGTH_STEP = 16  # attention kernels on GPUs would pad a mask whose length is not a multiple of 8


def without_padding(batch: Batch) -> Batch:
    """The batch, its `caption` (B, L, Dc) and `caption_mask` (B, L) cut after the last token that counts in any sample.

    Lengths are rounded up to multiples of 16; tokens keep their places. A caption of which no token counts is kept
    whole: attention without a token to prefer sees them all. So is a batch in the memory of a GPU, which the CPU would
    have to wait for, an empty one, and one without these two entries.
    """
    caption: Any = batch.get("caption")
    mask: Any = batch.get("caption_mask")
    if not _can_be_cut(caption, mask):
        return batch
    counts = mask != 0  # (B, L)
    counts |= ~counts.any(1, keepdim=True)
    longest = int(counts.any(0).nonzero().max()) + 1
    kept = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
    if kept >= mask.shape[1]:
        return batch
    # Copied, since a view goes to another process, or to pinned memory, with all that it is a view of.
    return batch | {"caption": caption[:, :kept].contiguous(), "caption_mask": mask[:, :kept].contiguous()}


def _can_be_cut(caption: Any, mask: Any) -> bool:
    at_hand = all(isinstance(x, Tensor) and x.is_cpu for x in (caption, mask))
    return at_hand and caption.ndim == 3 and mask.shape == caption.shape[:2] and mask.numel() > 0
