"""Which groups are held back from training: by hash, so that no prompt is on both sides, whatever else there is."""

import hashlib


def is_held_back(group: str, share: float, *, salt: str = "") -> bool:
    """Whether a group belongs to the validation half, as about `share` of all groups do.

    It depends on the group's name and the salt alone: data that grow later leave everybody where they were.

    Raises:
        ValueError: share is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"the validation share is {share}; it must be in [0, 1)")
    return group_rank(group, salt) < share


def group_rank(group: str, salt: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a group."""
    return int.from_bytes(hashlib.blake2b(f"{salt}/{group}".encode(), digest_size=6).digest()) / 2**48
