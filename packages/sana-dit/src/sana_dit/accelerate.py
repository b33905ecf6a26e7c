"""Our transformer in the place of diffusers' own, inside a diffusers pipeline."""

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sana_dit.conditioning import Conditioning
from sana_dit.diffusers_config import CLASS_NAME, from_diffusers_config
from sana_dit.transformer import SanaTransformer, is_called_whole
from sana_dit.weight_shapes import check_weights
from sana_dit.weights import read_names

Pipeline = TypeVar("Pipeline")

# attributes that only ControlNet and PAG pipelines have; these are refused
_OF_VARIANTS = ("controlnet", "set_pag_applied_layers")


def accelerate_diffusers(pipeline: Pipeline) -> Pipeline:
    """Puts our transformer inside a diffusers SanaPipeline or SanaSprintPipeline, in place: the images stay the same.

    The weights are shared, not copied. Fuse and unload LoRAs before, or use `load_lora(pipe.transformer.model, ...)`
    after. Save the pipeline before: diffusers' `save_pretrained` writes an accelerated one without its transformer.
    Switch offloading or compilation on after. A second call changes nothing. Returns the pipeline.

    Raises:
        ValueError: The pipeline's transformer is not Sana's, is offloaded, or has layers that Sana's has not.
    """
    transformer = getattr(pipeline, "transformer", None)
    if isinstance(transformer, DiffusersTransformer):
        return pipeline
    if type(transformer).__name__ != CLASS_NAME or any(hasattr(pipeline, name) for name in _OF_VARIANTS):
        raise ValueError(
            f"{type(pipeline).__name__} holds a {type(transformer).__name__}; accelerate_diffusers takes a "
            f"pipeline whose transformer is a {CLASS_NAME}, without ControlNet and PAG"
        )
    pipeline.transformer = _adapt(transformer)  # type: ignore[attr-defined]
    return pipeline


class TransformerOutput(NamedTuple):
    """What diffusers reads, as `.sample` or as `[0]`."""

    sample: Tensor


class DiffusersTransformer(nn.Module):
    """A `SanaTransformer` behind the arguments and attributes that diffusers' pipelines use.

    Attributes:
        model: The transformer that does the work.
        config: The replaced model's, in diffusers' fields.
    """

    def __init__(self, model: SanaTransformer, config: Any):
        super().__init__()
        self.model = model
        self.config = config
        self._last_read: tuple[_Version, Conditioning] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        guidance: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        controlnet_block_samples: tuple[Tensor, ...] | None = None,
        return_dict: bool = True,
    ) -> TransformerOutput | tuple[Tensor]:
        """Maps latents (B, C, h, w), captions (B, L, C), timestep (B,) and a mask (B, L) to a velocity (B, C, h, w).

        Raises:
            ValueError: attention_mask, attention_kwargs or controlnet_block_samples are given, for which there is
                nothing here to act on.
        """
        given = {
            "attention_mask": attention_mask is not None,
            "attention_kwargs": bool(attention_kwargs),
            "controlnet_block_samples": controlnet_block_samples is not None,
        }
        if any(given.values()):
            names = [name for name in given if given[name]]
            raise ValueError(f"{names} cannot act on an accelerated transformer: use diffusers' own for them")
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_called_whole(self.model):
            velocity = self.model(hidden_states, timestep, encoder_hidden_states, encoder_attention_mask, guidance)
        else:
            conditioning = self._read(encoder_hidden_states, encoder_attention_mask)
            velocity = self.model.denoise(hidden_states, self.model.time(timestep, guidance), conditioning)
        return TransformerOutput(velocity) if return_dict else (velocity,)

    def load_lora_adapter(self, *_: Any, **__: Any) -> None:
        """Raises ValueError: diffusers' `load_lora_weights` ends here."""
        raise ValueError(
            "diffusers cannot add adapters to an accelerated transformer: "
            "use sana_dit.load_lora(pipe.transformer.model, ...)"
        )

    def _read(self, caption: Tensor, mask: Tensor | None) -> Conditioning:
        """What `SanaTransformer.prepare` returns: at the later steps of a picture, what it returned at the first."""
        inputs = [caption] if mask is None else [caption, mask]
        tensors = [*inputs, *self.model.parameters()]
        if any(x.is_inference() for x in tensors):  # these do not count their changes
            return self.model.prepare(caption, mask)
        version = _Version([*inputs, self.model.adapters], [(x._version, x.data_ptr()) for x in tensors])
        if self._last_read is None or not self._last_read[0].is_same(version):
            self._last_read = version, self.model.prepare(caption, mask)
        return self._last_read[1]


class _Version(NamedTuple):
    """What was read, kept so that nothing else takes its place in memory, and the state of all tensors.

    That is captions, their mask, and the adapters they were read with, which change no weight while they are beside it.
    """

    inputs: list[object]
    states: list[tuple[int, int]]

    def is_same(self, other: "_Version") -> bool:
        """Whether these are the same objects, and no one has written to them or to a weight since."""
        if len(self.inputs) != len(other.inputs) or self.states != other.states:
            return False
        return all(a is b for a, b in zip(self.inputs, other.inputs, strict=True))


def _adapt(transformer: Any) -> DiffusersTransformer:
    if hasattr(transformer, "_hf_hook") or any(p.is_meta for p in transformer.parameters()):
        raise ValueError("the pipeline is offloaded: call accelerate_diffusers before enabling offloading")
    state = transformer.state_dict()
    if any("lora_" in name for name in state):
        raise ValueError("the transformer carries a LoRA: fuse and unload it before accelerate_diffusers")
    checkpoint = read_names(state)
    with torch.device("meta"):
        model = SanaTransformer(from_diffusers_config(transformer.config, where="the configuration of the transformer"))
    check_weights(checkpoint.weights, model.state_dict(), model.config, layout=checkpoint.layout)
    model.load_state_dict(checkpoint.weights, assign=True)
    return DiffusersTransformer(model, transformer.config).train(transformer.training)
