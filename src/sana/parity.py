"""What a comparison of pictures with diffusers' found: a file that a model card can tell of."""

import json
from dataclasses import dataclass
from pathlib import Path

from sana.catalog import locate
from sana_dit import SanaTransformer
from sana_scale.depth import model_hash

STEPS_WITH_A_MIDDLE = 2  # of Sprint: for any other number diffusers wants no timestep in the middle


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """What is drawn of each prompt: a picture from every seed, none of them scaled or cropped.

    Attributes:
        seeds: Of the starting noise, drawn on the CPU.
        height: Pixels.
        width: Pixels.
        steps: Evaluations of the transformer per picture.
        guidance_scale: Of classifier-free guidance; Sprint's input.
        chi: Whether the complex human instruction comes before a prompt.
        max_tokens: Of a caption.
    """

    seeds: tuple[int, ...]
    height: int
    width: int
    steps: int
    guidance_scale: float
    chi: bool = True
    max_tokens: int = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """What a comparison found, and of what.

    Attributes:
        model: Folder, Hub id or name, as it was given.
        weights: Hash of the transformer's weights as they are stored.
        prompts: What was drawn.
        sampling: How it was drawn.
        dtype: That both computed in.
        kernels: Of our transformer and autoencoder.
        device: That both ran on.
        date: When.
        versions: Of the packages.
        largest_difference: Between two pictures' values for the same pixel, in levels of 255.
        mean_difference: Of all values, in levels of 255.
        error: Root mean square of our pictures less diffusers' in float32, in levels; None where `dtype` is that.
        reference_error: That of diffusers' pictures less its own in float32, likewise.
    """

    model: str
    weights: str
    prompts: tuple[str, ...]
    sampling: Sampling
    dtype: str
    kernels: str
    device: str
    date: str
    versions: dict[str, str]
    largest_difference: int
    mean_difference: float
    error: float | None
    reference_error: float | None

    @property
    def in_words(self) -> str:
        """The finding as a sentence."""
        count = len(self.prompts) * len(self.sampling.seeds)
        found = (
            f"{'1 image differs' if count == 1 else f'{count} images differ'} from diffusers' by at most "
            f"{self.largest_difference} of 255 levels, {self.mean_difference:.2g} on average"
        )
        if self.error is None:
            return f"{found}."
        return (
            f"{found}; from diffusers' in float32 they are off by {self.error:.2g} levels (root mean square), those "
            f"of diffusers in {self.dtype} by {self.reference_error:.2g}."
        )

    @classmethod
    def read(cls, path: Path) -> "Parity":
        """What `sana parity --out` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is something else.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            sampling = Sampling(**fields["sampling"] | {"seeds": tuple(fields["sampling"]["seeds"])})
            return cls(**fields | {"prompts": tuple(fields["prompts"]), "sampling": sampling})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a comparison with diffusers ({error!r}): give what `sana parity --out` wrote"
            ) from error


def weights_hash(model: str | Path, *, revision: str | None = None) -> str:
    """The SHA-256 of a pipeline's transformer as it is stored, however its files are cut or named."""
    source, revision = locate(model, revision)
    return model_hash(SanaTransformer.from_pretrained(source, revision=revision))
