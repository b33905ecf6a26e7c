"""Guidance: a model, captions and a scale become the velocity that a sampler follows (SANA, section 2.4)."""

import torch
from torch import Tensor

from sana_dit.captions import Captions
from sana_dit.sampling import Velocity
from sana_dit.transformer import SanaTransformer


def guided_velocity(
    model: SanaTransformer, captions: Captions, negative: Captions | None = None, *, scale: float = 4.5
) -> Velocity:
    """Returns the velocity of B samples towards their captions and, where scale > 1, away from the negative ones.

    Classifier-free guidance `u + scale (c - u)` in fp32, with u and c from one batch [u, c]. A scale of at most 1
    leaves u out. A Sprint model has learnt guidance: its scale is an input, and there is no negative caption.

    Args:
        model: The transformer; latents stay in fp32 outside of it.
        captions: Of B prompts; samples of one prompt repeat it.
        negative: Of B negative prompts or of 1 for all. Its mask is its own, or, where the model's compat is
            "native", that of captions. None stands for the model's null caption under the mask of captions, as
            in training.
        scale: Guidance scale; 4.5 is usual.

    Raises:
        ValueError: if negative is needed and missing, does not fit captions, or is given to a Sprint model.

    Source: Classifier-Free Diffusion Guidance (arXiv 2207.12598), equation 6.
    """
    if model.config.guidance_embeds:
        if negative is not None:
            raise ValueError("negative captions were given to a model with guidance as an input: leave them out")
        return _with_guidance_input(model, captions, scale)
    if scale <= 1:
        return _conditional(model, captions)
    return _classifier_free(model, captions, _unconditional(model, captions, negative), scale)


def _with_guidance_input(model: SanaTransformer, captions: Captions, scale: float) -> Velocity:
    embeddings, mask = captions
    guidance = torch.full((len(mask),), scale * model.config.guidance_embeds_scale, device=mask.device)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        _check_batch(x, captions)
        v: Tensor = model(x, t, embeddings, mask, guidance)  # t is sigma here, which timestep_scale spares
        return v.float()

    return velocity


def _conditional(model: SanaTransformer, captions: Captions) -> Velocity:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        _check_batch(x, captions)
        v: Tensor = model(x, t * model.config.timestep_scale, *captions)
        return v.float()

    return velocity


def _classifier_free(model: SanaTransformer, captions: Captions, unconditional: Captions, scale: float) -> Velocity:
    both = Captions(
        torch.cat([unconditional.embeddings, captions.embeddings]),  # (2B, L, C)
        torch.cat([unconditional.mask, captions.mask]),  # (2B, L)
    )

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        _check_batch(x, captions)
        t = t * model.config.timestep_scale
        v: Tensor = model(torch.cat([x, x]), torch.cat([t, t]), *both)  # (2B, C, h, w)
        u, c = v.float().chunk(2)
        return u + scale * (c - u)

    return velocity


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


def _check_batch(x: Tensor, captions: Captions) -> None:
    if len(x) != len(captions.mask):
        raise ValueError(
            f"{len(x)} samples for {len(captions.mask)} captions: give each sample its caption, "
            "repeated where samples share one"
        )
