"""The shape of a DC-AE: how many stages, how wide, and which blocks (DC-AE, section 3; DC-AE 1.5, section 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from os import PathLike, fspath
from typing import Any, Literal, Self, get_args

BlockType = Literal["ResBlock", "EfficientViTBlock"]
NormType = Literal["rms_norm", "batch_norm"]
Activation = Literal["relu", "silu"]
Downsampling = Literal["conv", "pixel_unshuffle"]
Upsampling = Literal["interpolate", "pixel_shuffle"]

_PER_STAGE = (
    "encoder_block_types",
    "encoder_block_out_channels",
    "encoder_layers_per_block",
    "encoder_qkv_multiscales",
    "decoder_block_types",
    "decoder_block_out_channels",
    "decoder_layers_per_block",
    "decoder_qkv_multiscales",
    "decoder_norm_types",
    "decoder_act_fns",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "encoder_block_types": get_args(BlockType),
    "decoder_block_types": get_args(BlockType),
    "decoder_norm_types": get_args(NormType),
    "decoder_act_fns": get_args(Activation),
    "decoder_conv_act_fn": get_args(Activation),
    "downsample_block_type": get_args(Downsampling),
    "upsample_block_type": get_args(Upsampling),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DCAEConfig:
    """Everything that decides the parameters of a DC-AE; field names are those of diffusers' `config.json`.

    Stages are listed from full resolution down to the latent, for the decoder too. `layers_per_block[0] == 0` means
    that there is no full-resolution stage: the first convolution halves the image (the last one doubles it).
    `adaptive_channels` is DC-AE 1.5: latents may be cut to their first channels. Raises ValueError where two fields
    contradict each other.
    """

    in_channels: int = 3
    latent_channels: int
    attention_head_dim: int = 32
    encoder_block_types: tuple[BlockType, ...]
    decoder_block_types: tuple[BlockType, ...]
    encoder_block_out_channels: tuple[int, ...]
    decoder_block_out_channels: tuple[int, ...]
    encoder_layers_per_block: tuple[int, ...]
    decoder_layers_per_block: tuple[int, ...]
    encoder_qkv_multiscales: tuple[tuple[int, ...], ...]
    decoder_qkv_multiscales: tuple[tuple[int, ...], ...]
    downsample_block_type: Downsampling = "pixel_unshuffle"
    upsample_block_type: Upsampling = "pixel_shuffle"
    decoder_norm_types: tuple[NormType, ...]
    decoder_act_fns: tuple[Activation, ...]
    decoder_conv_act_fn: Activation = "relu"
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    scaling_factor: float = 1.0
    adaptive_channels: bool = False

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_stages()
        for side in ("encoder", "decoder"):
            self._check_widths(side)
        if self.adaptive_channels and (self.encoder_out_shortcut or self.decoder_in_shortcut):
            raise ValueError(
                f"adaptive_channels is True, encoder_out_shortcut {self.encoder_out_shortcut} and decoder_in_shortcut "
                f"{self.decoder_in_shortcut}; these shortcuts tie the number of channels: set both to False"
            )

    @property
    def num_stages(self) -> int:
        """Stages on each side, the possibly empty full-resolution one included."""
        return len(self.encoder_block_out_channels)

    @property
    def compression(self) -> int:
        """Pixels per latent cell along one side: 32 for an f32 model."""
        return int(2 ** (self.num_stages - 1))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str | PathLike[str] = "config.json") -> Self:
        """Read a diffusers `config.json`: lists become tuples, one string stands for every stage, `_private` keys go.

        Fields that are not there take diffusers' defaults. Raises ValueError, which calls the file `where`, on keys
        and values that mean nothing here.
        """
        try:
            return cls._from_dict(values)
        except (ArithmeticError, TypeError, ValueError) as error:  # a string where a number belongs is a TypeError
            raise ValueError(f"{fspath(where)}: {error}") from error

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any]) -> Self:
        known = {field.name for field in fields(cls)}
        given = {key: value for key, value in values.items() if not key.startswith("_")}
        if unknown := sorted(set(given) - known):
            raise ValueError(f"unknown autoencoder settings {unknown}; known ones are {sorted(known)}")
        merged = _DIFFUSERS_DEFAULTS | given
        stages = len(merged["encoder_block_out_channels"])
        for key in _PER_STAGE:
            value = merged[key]
            merged[key] = (value,) * stages if isinstance(value, str) else _tuples(value)
        # diffusers takes every other word for a strided convolution, and published files say "Conv" as well as "conv".
        if merged["downsample_block_type"] != "pixel_unshuffle":
            merged["downsample_block_type"] = "conv"
        if merged["upsample_block_type"] != "interpolate":
            merged["upsample_block_type"] = "pixel_shuffle"
        return cls(**merged)

    def to_dict(self) -> dict[str, Any]:
        """The settings diffusers knows, as plain values for `config.json`."""
        values = asdict(self)
        del values["adaptive_channels"]
        return values

    def _check_choices(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            for item in (value,) if isinstance(value, str) else value:
                if item not in allowed:
                    raise ValueError(f"{name} holds {item!r}; it must be one of {list(allowed)}")

    def _check_stages(self) -> None:
        for name in _PER_STAGE:
            if len(getattr(self, name)) != self.num_stages:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries and encoder_block_out_channels {self.num_stages}; "
                    "give one per stage"
                )
        if self.num_stages < 2:
            raise ValueError(f"{self.num_stages} stage(s) were given; a deep-compression autoencoder needs at least 2")
        for side in ("encoder", "decoder"):
            layers = getattr(self, f"{side}_layers_per_block")
            if layers[0] < 0 or min(layers[1:]) < 1:
                raise ValueError(
                    f"{side}_layers_per_block is {layers}; only the first may be 0, the others need at least 1"
                )

    def _check_widths(self, side: str) -> None:
        widths: Sequence[int] = getattr(self, f"{side}_block_out_channels")
        if any(width < 4 or width % 4 for width in widths):
            raise ValueError(f"{side}_block_out_channels are {widths}; space-to-channel needs multiples of 4")
        first = 0 if getattr(self, f"{side}_layers_per_block")[0] else 1
        for wide, narrow in zip(widths[first + 1 :], widths[first:-1], strict=True):
            if 4 * narrow % wide:
                raise ValueError(
                    f"{side}_block_out_channels go from {narrow} to {wide}; for the residual shortcut the second must "
                    "divide 4 times the first"
                )
        for kind, width in zip(getattr(self, f"{side}_block_types"), widths, strict=True):
            if kind == "EfficientViTBlock" and width % self.attention_head_dim:
                raise ValueError(
                    f"an EfficientViTBlock of {width} channels cannot be cut into heads of {self.attention_head_dim}; "
                    "make the width a multiple of attention_head_dim"
                )
        shortcut = self.encoder_out_shortcut if side == "encoder" else self.decoder_in_shortcut
        if shortcut and widths[-1] % self.latent_channels:
            raise ValueError(
                f"the last {side} stage has {widths[-1]} channels and the latent {self.latent_channels}; the shortcut "
                "between them needs a multiple"
            )


def _tuples(value: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)


_DIFFUSERS_DEFAULTS: dict[str, Any] = {
    "latent_channels": 32,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "downsample_block_type": "pixel_unshuffle",
    "upsample_block_type": "pixel_shuffle",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
}
