"""Guidance: a model, captions and a scale become the velocity that a sampler follows (SANA)."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from sana_dit.captions import Captions
from sana_dit.conditioning import Conditioning
from sana_dit.embeddings import TimeStates
from sana_dit.sampling import Step
from sana_dit.transformer import SanaTransformer, is_called_whole

Denoise = Callable[[Tensor, TimeStates, Conditioning], Tensor]
"""`SanaTransformer.denoise`, or what computes the same, such as `StepGraphs`."""


def guided_velocity(
    model: SanaTransformer,
    captions: Captions,
    negative: Captions | None = None,
    *,
    guidance_scale: float = 4.5,
    denoise: Denoise | None = None,
) -> "GuidedVelocity":
    """Returns the velocity of B samples towards their captions and, with guidance, away from the negative ones.

    Classifier-free guidance `u + s (c - u)` in fp32, where s is the guidance scale, with u and c from one batch [u, c].
    A scale of at most 1 leaves u out. A Sprint model has learnt guidance: its scale is an input, and there is no
    negative caption.

    Args:
        model: The transformer; latents stay in fp32 outside of it.
        captions: Of B prompts; samples of one prompt repeat it.
        negative: Of B negative prompts or of 1 for all. Its mask is its own, or, where the model's compat is
            "native", that of captions. None stands for the model's null caption under the mask of captions, as
            in training.
        guidance_scale: 4.5 is usual.
        denoise: What evaluates the prepared model; None is `model.denoise`.

    Raises:
        ValueError: if negative is needed and missing, does not fit captions, or is given to a Sprint model.

    Source: Classifier-Free Diffusion Guidance (arXiv 2207.12598), equation 6.
    """
    denoise = model.denoise if denoise is None else denoise
    if model.config.guidance_embeds:
        if negative is not None:
            raise ValueError("negative captions were given to a model with guidance as an input: leave them out")
        return GuidedVelocity(model, captions, None, guidance_scale, denoise)
    if guidance_scale <= 1:
        return GuidedVelocity(model, captions, None, None, denoise)
    return GuidedVelocity(model, captions, _unconditional(model, captions, negative), guidance_scale, denoise)


class GuidedVelocity:
    """`(x (B,C,h,w) fp32, t (B,)) -> v (B,C,h,w)` in fp32, as `guided_velocity` makes it.

    Captions are read once, at the first evaluation, and a sampler's timesteps all at once: see
    `SanaTransformer.prepare`. A model that was compiled as a whole, or has forward hooks (FSDP and offloading set
    them), is called through its forward.
    """

    def __init__(
        self,
        model: SanaTransformer,
        captions: Captions,
        unconditional: Captions | None,
        scale: float | None,
        denoise: Denoise,
    ):
        self._model = model
        self._denoise = denoise
        self._scale = scale
        self._branches = [captions] if unconditional is None else [unconditional, captions]
        self._batch = len(captions.mask)
        self._prepared_for: dict[str, float] | None = None
        self._memories: Conditioning

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the velocity at timesteps t (B,)."""
        if is_called_whole(self._model):
            return self._plain(x, t)
        return self._prepared(x, self._time(t))

    def scheduled(self, timesteps: Tensor) -> Step:
        """Returns the velocity as a function of x and the number of a timestep in timesteps (steps,)."""
        if is_called_whole(self._model):
            return lambda x, i: self._plain(x, timesteps[i].expand(self._batch))
        vectors, modulations = self._time(timesteps)  # (steps, D), (steps, 6, D)
        return lambda x, i: self._prepared(x, TimeStates(vectors[i : i + 1], modulations[i : i + 1]))

    def _plain(self, x: Tensor, t: Tensor) -> Tensor:
        self._check_batch(x)
        k = len(self._branches)
        t = self._scaled(t)
        velocity: Tensor = self._model(x.repeat(k, 1, 1, 1), t.repeat(k), *self._captions, self._guidance(k * len(t)))
        return self._combine(velocity)

    def _prepared(self, x: Tensor, time: TimeStates) -> Tensor:
        self._check_batch(x)
        return self._combine(self._denoise(x, time, self._conditioning))

    def _combine(self, velocity: Tensor) -> Tensor:
        if len(self._branches) == 1:
            return velocity.float()
        assert self._scale is not None
        u, c = velocity.float().chunk(2)
        return u + self._scale * (c - u)

    @cached_property
    def _captions(self) -> Captions:
        return Captions(*(torch.cat(parts) for parts in zip(*self._branches, strict=True)))  # (k B, L, C), (k B, L)

    @property
    def _conditioning(self) -> Conditioning:
        if self._prepared_for is not self._model.adapters:  # keys and values come from adapted weights
            self._prepared_for = self._model.adapters
            self._memories = self._model.prepare(*self._captions)
        return self._memories

    def _time(self, t: Tensor) -> TimeStates:
        return self._model.time(self._scaled(t), self._guidance(len(t)))

    def _scaled(self, t: Tensor) -> Tensor:
        # A Sprint model takes sigma itself; timestep_scale does not apply.
        return t if self._model.config.guidance_embeds else t * self._model.config.timestep_scale

    def _guidance(self, count: int) -> Tensor | None:
        config = self._model.config
        if not config.guidance_embeds:
            return None
        assert self._scale is not None
        device = self._branches[0].embeddings.device
        return torch.full((count,), self._scale * config.guidance_embeds_scale, device=device)

    def _check_batch(self, x: Tensor) -> None:
        if len(x) != self._batch:
            raise ValueError(
                f"{len(x)} samples for {self._batch} captions: give each sample its caption, "
                "repeated where samples share one"
            )


def _unconditional(model: SanaTransformer, captions: Captions, negative: Captions | None) -> Captions:
    batch, length, _ = captions.embeddings.shape
    if negative is None:
        if model.null_caption is None:
            raise ValueError(
                "no negative captions were given and the model has no null caption: "
                "encode negative prompts, [''] if there is nothing to avoid, with chi=False"
            )
        negative = Captions(model.null_caption[None, :length].to(captions.embeddings), captions.mask)
    elif model.config.compat == "native":
        negative = Captions(negative.embeddings, captions.mask)
    embeddings, mask = negative
    if embeddings.shape[0] not in (1, batch) or embeddings.shape[1:] != captions.embeddings.shape[1:]:
        raise ValueError(
            f"negative captions are {tuple(embeddings.shape)} and captions {tuple(captions.embeddings.shape)}: "
            "give one negative or as many as captions, from the same encoder"
        )
    return Captions(embeddings.expand(batch, -1, -1), mask.expand(batch, -1))
