"""What every judge is called with: a prompt and images, paired, read when their turn comes, answered by numbers."""

import math
from collections.abc import Iterator, Sequence
from os import PathLike

from PIL import Image
from tqdm import tqdm

from sana_judge.image_reading import ImageLike, read_image


def pair_prompts(prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[str]:
    """Returns one prompt per image; a single prompt is repeated for all.

    Raises:
        TypeError: images is a single one, or a prompt is not a string.
        ValueError: The number of prompts differs from that of images.
    """
    if isinstance(images, Image.Image | str | PathLike):
        raise TypeError(f"images is a single {type(images).__name__}; it must be a list of images")
    prompts = [prompt] * len(images) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(images):
        raise ValueError(f"{len(prompts)} prompts for {len(images)} images; give one for all, or one for each")
    for each in prompts:
        if not isinstance(each, str):
            raise TypeError(f"a prompt is {each!r}; it must be a string")
    return prompts


def read_at(images: Sequence[ImageLike], index: int) -> Image.Image:
    """Returns one of several images as RGB; an error says which it was. Raises what `read_image` raises."""
    try:
        return read_image(images[index])
    except (OSError, TypeError, ValueError) as error:
        error.add_note(f"It is images[{index}].")
        raise


def read_batches(
    images: Sequence[ImageLike], batch_size: int, *, name: str, progress: bool
) -> Iterator[tuple[range, list[Image.Image]]]:
    """Yields the places of images and the images, batch_size at a time, opening them only when due.

    A bar called `name` appears when it takes longer than a second, unless progress is False.
    """
    with tqdm(total=len(images), desc=name, unit="image", delay=1, disable=not progress) as bar:
        for start in range(0, len(images), batch_size):
            places = range(start, min(start + batch_size, len(images)))
            yield places, [read_at(images, place) for place in places]
            bar.update(len(places))


def finite_scores(scores: Sequence[float], places: Sequence[int]) -> list[float]:
    """Returns the scores; raises FloatingPointError, with the image, where one is NaN or infinite."""
    for score, place in zip(scores, places, strict=True):
        if not math.isfinite(score):
            raise not_finite(f"the score of images[{place}]", score)
    return list(scores)


def not_finite(what: str, value: object) -> FloatingPointError:
    """Returns the error of a model that computed NaN or infinity."""
    return FloatingPointError(
        f"{what} is {value}; it must be finite: load the model with dtype=torch.bfloat16 or torch.float32, and if that "
        "does not help, download it again"
    )


def check_batch_size(batch_size: int) -> int:
    """Returns batch_size; raises ValueError where it is below 1."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    return batch_size
