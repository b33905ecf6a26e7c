"""A tournament, for judges that can only compare two images (SANA-1.5, inference-time scaling)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Image = TypeVar("Image")


def tournament(
    images: Sequence[Image], compare: Callable[[Image, Image], bool], *, keep: int = 1, released: bool = False
) -> list[Image]:
    """The best `keep` of `images`, best first, by single elimination.

    `compare(a, b)` says whether a is better than b. The winner takes len(images) - 1 comparisons; every further place
    is played out among those who have lost only to placed images, about log2(len(images)) comparisons more. With a
    consistent `compare` these are the true best; between equals the earlier image wins.

    With `released`, the rule of SANA-1.5's published script: the bracket stops when `keep` images are left, so they are
    the winners of `keep` groups and not the best `keep`; the later of two equals wins; both numbers are powers of two.

    Raises:
        ValueError: fewer images than `keep`, or with `released` a number that is not a power of two.
    """
    if not 1 <= keep <= len(images):
        raise ValueError(f"keep is {keep}; it must be from 1 to {len(images)}, the number of images")
    if released:
        return _winners_of_groups(images, compare, keep)
    bracket = _Bracket(lambda later, earlier: compare(images[later], images[earlier]), len(images))
    return [images[bracket.next_place()] for _ in range(keep)]


class _Bracket:
    """Players by number; `beats(later, earlier)` decides a match."""

    def __init__(self, beats: Callable[[int, int], bool], players: int) -> None:
        self._beats = beats
        # Who each player lost to, without those who have their place already.
        self._lost_to: dict[int, set[int]] = {player: set() for player in range(players)}

    def next_place(self) -> int:
        """Play until one is left of those who have lost only to players that are placed already."""
        standing = [player for player, victors in self._lost_to.items() if not victors]
        while len(standing) > 1:
            odd = standing[len(standing) // 2 * 2 :]
            standing = [self._play(*pair) for pair in zip(standing[::2], standing[1::2], strict=False)] + odd
        winner = standing[0]
        del self._lost_to[winner]
        for victors in self._lost_to.values():
            victors.discard(winner)
        return winner

    def _play(self, earlier: int, later: int) -> int:
        winner, loser = (later, earlier) if self._beats(later, earlier) else (earlier, later)
        self._lost_to[loser].add(winner)
        return winner


def _winners_of_groups(images: Sequence[Image], compare: Callable[[Image, Image], bool], keep: int) -> list[Image]:
    for name, number in (("images", len(images)), ("images to keep", keep)):
        if number.bit_count() != 1:
            raise ValueError(f"there are {number} {name}; the released rule needs a power of two")
    standing = list(images)
    while len(standing) > keep:
        standing = [a if compare(a, b) else b for a, b in zip(standing[::2], standing[1::2], strict=True)]
    return standing
