"""Loading, saving and publishing a transformer in diffusers' files, NVlabs' files, and back."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Self, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sana_dit.checkpoint_reading import (
    CONFIG,
    EXTRAS,
    FACTS,
    CheckpointFiles,
    find_checkpoint,
    read_json,
    read_weights,
)
from sana_dit.checkpoint_writing import SAVED_WEIGHTS, model_card, replacing_files, write_json, write_shards
from sana_dit.config import Compat, SanaConfig
from sana_dit.diffusers_config import from_diffusers_config, to_diffusers_config
from sana_dit.hub_upload import check_finite, upload
from sana_dit.low_rank import is_beside, trained_adapter
from sana_dit.quantization import check_unquantized
from sana_dit.weight_shapes import check_weights, infer_config
from sana_dit.weights import Checkpoint, Layout, read_names, to_diffusers, to_native

_SHARD_SIZE = "5GB"
_NULL_CAPTION = "null_caption"


class Pretrained(nn.Module):
    """Gives a transformer built from a `SanaConfig` the verbs of the Hub."""

    config: SanaConfig
    blocks: nn.ModuleList
    null_caption: Tensor | None

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.config = config
        self.register_buffer("null_caption", None, persistent=False)

    @classmethod
    def from_pretrained(
        cls,
        repo_dir_or_file: str | PathLike[str],
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        compat: Compat | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Loads a transformer in eval mode; nothing that comes with it is executed.

        Args:
            repo_dir_or_file: A Hub repository (owner/name), the folder of a transformer or of a pipeline, a
                .safetensors file with diffusers' or NVlabs' names, or NVlabs' .pth. Without a config.json beside it the
                configuration is inferred: the width must be a public one, 1152 or 2240, and where the file
                holds no position embedding sample_size is 32.
            subfolder: Folder of the transformer inside it; in a pipeline "transformer" by itself.
            revision: Branch, tag or commit on the Hub.
            compat: Whose numbers to reproduce. None asks sana.json, else "native" for NVlabs' names and
                "diffusers" for diffusers'.
            dtype: Of the weights; None keeps the file's.
            device: Where to put the model; None is the CPU.

        Raises:
            FileNotFoundError: There is no transformer.
            ValueError: The file is damaged, holds more than tensors, or does not fit: names the keys.
        """
        if compat is not None and compat not in get_args(Compat):
            raise ValueError(f"compat is {compat!r}; it must be one of {get_args(Compat)}, or None")
        files = find_checkpoint(repo_dir_or_file, subfolder=subfolder, revision=revision, dtype=dtype)
        device = torch.device(device or "cpu")
        weights = read_weights(files.weights, device, dtype)
        with _about(files.weights[0]):
            checkpoint = read_names(weights)
        config = _config(files, checkpoint, compat)
        with torch.device("meta"):
            model = cls(config)
        with _about(files.weights[0]):
            check_weights(checkpoint.weights, model.state_dict(), config, layout=checkpoint.layout)
        model.load_state_dict(checkpoint.weights, assign=True)
        model.null_caption = checkpoint.null_caption
        if (files.folder / EXTRAS).is_file():
            model.null_caption = read_weights((files.folder / EXTRAS,), device, dtype).get(_NULL_CAPTION)
        null, channels = model.null_caption, config.caption_channels
        if null is not None and (null.ndim != 2 or null.shape[1] != channels):
            raise ValueError(
                f"{files.folder} has a null caption of shape {tuple(null.shape)}; it must be (L, {channels}): "
                "download it again"
            )
        return model.eval()

    def save_pretrained(self, directory: str | PathLike[str], *, layout: Layout = "diffusers") -> None:
        """Writes the transformer into a folder that diffusers loads too, or as NVlabs' model.pth.

        What diffusers' files have no place for, compat and the null caption, goes to sana.json and
        sana.safetensors beside them. A new folder appears whole; in an existing one each file does. Warns of adapters
        that are not fused into the weights, and so not saved.

        Raises:
            ValueError: The layout is neither "diffusers" nor "native", or the weights are quantised.
        """
        if layout not in get_args(Layout):
            raise ValueError(f"layout is {layout!r}; it must be one of {get_args(Layout)}")
        check_unquantized(self)
        if any(map(is_beside, self.modules())):
            trained = trained_adapter(self)
            alone = "" if trained is None else f"; save_lora writes {trained!r}, which is in training, by itself"
            warnings.warn(
                "the adapters that are loaded are not saved: call fuse_lora first, which adds them to the "
                f"weights, or unload_lora{alone}",
                stacklevel=2,
            )
        directory, weights = Path(directory), self.state_dict()
        with replacing_files(directory) as folder:
            if layout == "diffusers":
                write_shards(folder, to_diffusers(weights, self.config), max_shard_size=_SHARD_SIZE)
                if self.null_caption is not None:
                    save_file({_NULL_CAPTION: self.null_caption.contiguous()}, folder / EXTRAS)
            else:
                state = to_native(weights, self.config, self.null_caption)
                torch.save({"state_dict": state}, folder / "model.pth")
            write_json(folder / CONFIG, to_diffusers_config(self.config, len(self.blocks)))
            write_json(folder / FACTS, {**read_json(directory / FACTS), "compat": self.config.compat})

    def push_to_hub(
        self, repo: str, *, licence: str | None = None, private: bool = False, token: str | None = None
    ) -> str:
        """Publishes the transformer as owner/name on the Hub and returns the URL of the commit.

        It gets a card if it has none, which names the licence of the weights as the Hub spells it ("apache-2.0").
        It replaces weights uploaded earlier. Warns of adapters that are not fused, and so not published.

        Raises:
            ValueError: Weights are quantised or not finite, or private is asked of a repository that is public, or
                repo or licence cannot be one.
            PermissionError: The Hub does not let this token write there.
        """
        null = {} if self.null_caption is None else {_NULL_CAPTION: self.null_caption}
        check_finite(self.state_dict() | null)
        card = model_card(repo, sum(parameter.numel() for parameter in self.parameters()))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "model"
            self.save_pretrained(folder)
            return upload(folder, repo, card=card, weights=SAVED_WEIGHTS, licence=licence, private=private, token=token)


def _config(files: CheckpointFiles, checkpoint: Checkpoint, compat: Compat | None) -> SanaConfig:
    fields, facts = read_json(files.folder / CONFIG), read_json(files.folder / FACTS)
    if fields:
        config = from_diffusers_config(fields, where=files.folder / CONFIG)
    else:
        with _about(files.weights[0]):
            config = infer_config(checkpoint)
    with _about(files.folder / FACTS):
        return replace(config, compat=compat or facts.get("compat", checkpoint.layout))


@contextmanager
def _about(path: Path) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:  # a string where a number belongs is a TypeError
        raise ValueError(f"{path} {error}") from error
