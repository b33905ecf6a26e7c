"""The configuration of a VILA judge: a vision tower, a language model, and how an image becomes tiles (NVILA-Lite)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from transformers import Qwen2Config, SiglipVisionConfig

from sana_judge.checkpoint_reading import CONFIG, read_json

ImageAspectRatio = Literal["dynamic", "resize"]

PROJECTOR = "mlp_downsample_3x3_fix"


@dataclass(frozen=True, kw_only=True, slots=True)
class VILAConfig:
    """What a VILA checkpoint says of itself.

    Attributes:
        vision: Of the SigLIP tower.
        language: Of the Qwen2 language model.
        vision_layers: Layers of the tower that run; the features are the states after the last of them.
        image_aspect_ratio: "dynamic" cuts an image into tiles, "resize" squeezes it into one.
        min_tiles, max_tiles: Fewest and most tiles of an image, the thumbnail not counted.
        chat_template: Jinja; None takes the tokenizer's.
    """

    vision: SiglipVisionConfig
    language: Qwen2Config
    vision_layers: int
    image_aspect_ratio: ImageAspectRatio = "dynamic"
    min_tiles: int = 1
    max_tiles: int = 12
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.vision_layers <= self.vision.num_hidden_layers:
            raise ValueError(
                f"vision_layers is {self.vision_layers}; it must be from 1 to the {self.vision.num_hidden_layers} "
                "layers of the vision tower"
            )
        if self.image_aspect_ratio not in get_args(ImageAspectRatio):
            raise ValueError(
                f"image_aspect_ratio is {self.image_aspect_ratio!r}; it must be one of {get_args(ImageAspectRatio)}"
            )
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise ValueError(
                f"min_tiles is {self.min_tiles} and max_tiles {self.max_tiles}; it must be 1 <= min_tiles <= max_tiles"
            )

    @property
    def tile_size(self) -> int:
        """Pixels per side of a tile."""
        return _side(self.vision.image_size)

    @property
    def tile_tokens(self) -> int:
        """Vectors per tile that the language model sees: its patches, 3x3 of them in one."""
        side = self.tile_size // _side(self.vision.patch_size)
        return (-(-side // 3)) ** 2

    @classmethod
    def read(cls, root: Path) -> Self:
        """Reads config.json and, where the parts have folders, their config.json.

        Raises:
            FileNotFoundError: There is no config.json, or a part's is missing.
            ValueError: The checkpoint is of a kind that is not supported, or a value cannot be: names file and field.
        """
        fields = read_json(root / CONFIG)
        try:
            return cls._of(root, fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{root / CONFIG}, or the one of a part: {error}") from error

    @classmethod
    def _of(cls, root: Path, fields: Mapping[str, Any]) -> Self:
        _check_supported(fields, _part(root, fields, "mm_projector"))
        vision = SiglipVisionConfig(**_part(root, fields, "vision_tower"))
        return cls(
            vision=vision,
            language=Qwen2Config(**_part(root, fields, "llm")),
            vision_layers=_count_layers(vision.num_hidden_layers, _whole(fields, "mm_vision_select_layer", -2)),
            image_aspect_ratio=fields.get("image_aspect_ratio", "dynamic"),
            min_tiles=_whole(fields, "min_tiles", 1),
            max_tiles=_whole(fields, "max_tiles", 12),
            chat_template=fields.get("chat_template"),
        )


def _part(root: Path, fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The configuration of one part: its folder's, else the one inside the root's config.json."""
    inside = fields.get(f"{name}_cfg")
    if (root / name / CONFIG).is_file():
        return read_json(root / name / CONFIG)
    if isinstance(inside, dict):
        return inside
    raise FileNotFoundError(
        f"{root} has no {name}/{CONFIG}, nor {name}_cfg in {CONFIG}: give the folder of a whole VILA checkpoint, "
        "with llm, vision_tower and mm_projector"
    )


def _whole(fields: Mapping[str, Any], name: str, usual: int) -> int:
    value = fields.get(name, usual)
    if not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    return value


def _check_supported(fields: Mapping[str, Any], projector: Mapping[str, Any]) -> None:
    supported = {
        "mm_projector_type": (projector.get("mm_projector_type"), (PROJECTOR,)),
        "mm_vision_select_feature": (fields.get("mm_vision_select_feature", "cls_patch"), ("cls_patch",)),
        "s2": (bool(fields.get("s2")), (False,)),
        "dynamic_s2": (bool(fields.get("dynamic_s2")), (False,)),
    }
    for name, (given, allowed) in supported.items():
        if given not in allowed:
            raise ValueError(f"{name} is {given!r}; only NVILA-Lite's {allowed[0]!r} is supported")


def _side(size: int | list[int] | tuple[int, int]) -> int:
    if not isinstance(size, int):
        raise ValueError(
            f"image_size or patch_size is {size!r}; tiles and patches must be squares, given as one number"
        )
    return size


def _count_layers(layers: int, select_layer: int) -> int:
    """hidden_states[select_layer] is the state after this many layers; hidden_states[0] is before the first."""
    return select_layer if select_layer >= 0 else layers + 1 + select_layer


# In a dictionary, since transformers 5 takes rope_theta but does not declare it.
_QWEN2_1_5B: dict[str, Any] = {
    "vocab_size": 151651,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}

NVILA_LITE_2B = VILAConfig(
    vision=SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=448,
        patch_size=14,
    ),
    language=Qwen2Config(**_QWEN2_1_5B),
    vision_layers=26,
)
