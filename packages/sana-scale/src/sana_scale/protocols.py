"""What inference-time scaling needs: something that draws and something that judges (SANA-1.5)."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

ImageOut = TypeVar("ImageOut", covariant=True)
ImageIn = TypeVar("ImageIn", contravariant=True)


@runtime_checkable
class Sampler(Protocol[ImageOut]):
    """Draws one image per seed; the same prompt and seed give the same image, whatever else is asked for with them.

    The type of an image is the caller's: PIL images, arrays, or strings in a test.
    """

    def __call__(self, prompt: str, seeds: Sequence[int], /) -> Sequence[ImageOut]:
        """Return the images of `seeds`, in their order."""


@runtime_checkable
class PreviewingSampler(Sampler[ImageOut], Protocol[ImageOut]):
    """A sampler that can show its images half-way and go on with some of them only; `prune=` needs one."""

    def previewing(
        self,
        prompt: str,
        seeds: Sequence[int],
        *,
        at: Sequence[float],
        keep: Callable[[Sequence[ImageOut]], Sequence[int]],
    ) -> Sequence[tuple[int, ImageOut]]:
        """Draw `seeds`, dropping some on the way; returns (seed, image) of those that were drawn to the end.

        After each fraction in `at` of the denoising steps, call `keep` once with what the images still in the race
        look like so far, in the order of their seeds; it returns the places in that list to go on with.
        """


@runtime_checkable
class Judge(Protocol[ImageIn]):
    """Scores how well images show what the prompt says; higher is better, and only the order has to mean anything."""

    def __call__(self, prompt: str, images: Sequence[ImageIn], /) -> Sequence[float]:
        """Return one score per image, in their order."""
