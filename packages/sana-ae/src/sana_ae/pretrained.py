"""Loading, saving and publishing an autoencoder in diffusers' files, and loading efficientvit's."""

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal, Self

import torch
from torch import nn

from sana_ae.checkpoint_reading import CONFIG, FACTS, CheckpointFiles, find_checkpoint, read_json, read_weights
from sana_ae.checkpoint_writing import SAVED, model_card, replacing_files, write_checkpoint
from sana_ae.config import DCAEConfig
from sana_ae.hub_upload import check_finite, upload
from sana_ae.presets import PUBLISHED
from sana_ae.weights import Tensors, to_diffusers, to_ours


class Pretrained(nn.Module):
    """The verbs of the Hub for a module that is built from a `DCAEConfig`."""

    config: DCAEConfig

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        repo_dir_or_file: str | PathLike[str],
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Load an autoencoder in eval mode; nothing that comes with it is executed.

        Args:
            repo_dir_or_file: a Hub repository (owner/name), the folder of an autoencoder or of a pipeline, or one
                .safetensors, .pt or .pth file; names may be diffusers', efficientvit's or ours. Without a config.json
                beside it the configuration is that of the published checkpoint whose shapes the weights have.
            subfolder: folder of the autoencoder inside it; in a pipeline "vae" by itself.
            revision: branch, tag or commit on the Hub.
            dtype: of the weights; None keeps the file's.
            device: where to put the model; None is the CPU.

        Raises:
            FileNotFoundError: there is no autoencoder.
            ValueError: a file is damaged, holds more than tensors, or does not fit the configuration.
        """
        files = find_checkpoint(repo_dir_or_file, subfolder=subfolder, revision=revision, dtype=dtype)
        tensors = to_ours(read_weights(files, torch.device(device or "cpu"), dtype))
        with torch.device("meta"):
            model = cls(_read_config(files, tensors, cls))
        if mismatch := _mismatch(tensors, model.state_dict()):
            raise ValueError(f"{files.weights[0]} does not fit its configuration: {mismatch}")
        model.load_state_dict(tensors, assign=True)
        return model.eval()

    def save_pretrained(self, directory: str | PathLike[str], *, layout: Literal["diffusers"] = "diffusers") -> None:
        """Write the autoencoder into a folder that diffusers loads too; in an existing folder, file by file."""
        if layout != "diffusers":
            raise ValueError(f"layout is {layout!r}; it must be 'diffusers'")
        with replacing_files(Path(directory)) as folder:
            write_checkpoint(folder, to_diffusers(self.state_dict()), self.config)

    def push_to_hub(
        self, repo: str, *, licence: str | None = None, private: bool = False, token: str | None = None
    ) -> str:
        """Publish the autoencoder as owner/name on the Hub and return the URL of the commit.

        It gets a card where it has none, which names the licence of the weights as the Hub spells it ("apache-2.0").
        It replaces weights uploaded earlier. Raises ValueError where weights are not finite, private is asked of a
        repository that is public, or repo or licence cannot be one; PermissionError where this token may not write.
        """
        check_finite(self.state_dict())
        card = model_card(repo, self.config, sum(parameter.numel() for parameter in self.parameters()))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "model"
            self.save_pretrained(folder)
            return upload(folder, repo, card=card, weights=SAVED, licence=licence, private=private, token=token)


def _read_config(files: CheckpointFiles, tensors: Tensors, kind: type[Pretrained]) -> DCAEConfig:
    path = files.folder / CONFIG
    fields = read_json(path)
    if not fields:
        return _published(_infer_name(tensors, files.weights[0], kind))
    if name := fields.get("model_name"):  # efficientvit's
        if name not in PUBLISHED:
            raise ValueError(f"model_name of {path} is {name!r}; it must be one of {sorted(PUBLISHED)}")
        return _published(name)
    config = DCAEConfig.from_dict(fields, where=path)
    # Every published model without shortcuts at its latent is a DC-AE 1.5.
    adaptive = not (config.encoder_out_shortcut or config.decoder_in_shortcut)
    facts = read_json(files.folder / FACTS)
    try:
        return replace(config, adaptive_channels=facts.get("adaptive_channels", adaptive))
    except ValueError as error:
        raise ValueError(f"{files.folder / FACTS}: {error}") from error


def _published(name: str) -> DCAEConfig:
    config = PUBLISHED[name]
    if config.scaling_factor == 1.0:
        warnings.warn(
            f"the latent scale of {name} is not known and 1.0 here: set it with "
            "ae.config = dataclasses.replace(ae.config, scaling_factor=...)",
            stacklevel=4,  # where from_pretrained is called
        )
    return config


def _infer_name(tensors: Tensors, path: Path, kind: type[Pretrained]) -> str:
    """The published checkpoint of these shapes; where several differ in scale only, the one in the file's name."""
    with torch.device("meta"):
        fitting = {
            name: config for name, config in PUBLISHED.items() if not _mismatch(tensors, kind(config).state_dict())
        }
    choices = {name: config for name, config in fitting.items() if name in path.name} or fitting
    if not choices:
        raise ValueError(
            f"{path} has no {CONFIG} beside it and its shapes are those of none of {sorted(PUBLISHED)}: put its "
            f"{CONFIG} beside it"
        )
    first, *others = choices
    if any(choices[name] != choices[first] for name in others):
        raise ValueError(
            f"{path} could be any of {sorted(fitting)}, whose latents differ in scale: put its {CONFIG} beside it, or "
            "name the file after it"
        )
    return first


def _mismatch(given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """What speaks against loading the one into the other; empty where nothing does."""
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    complaints = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "misshapen": shapes,
    }
    return "; ".join(f"{len(items)} {kind} ({', '.join(items[:4])})" for kind, items in complaints.items() if items)
