"""Data sets for training: where their manifests come from, and what images and captions are encoded with."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sana.catalog import locate
from sana.devices import half_on_gpu
from sana.training.model import model_config
from sana.training.settings import ModelSettings
from sana_ae import DCAE
from sana_dit import CaptionCutWarning, CaptionEncoder
from sana_train.data import (
    Encoders,
    ImageManifest,
    Skipped,
    check_skipped,
    index_folder,
    list_skipped_on_error,
    source_facts,
    write_skipped,
)

MANIFEST, NOT_INDEXED = "manifest.parquet", "not_indexed.jsonl"


@dataclass(frozen=True, slots=True)
class DatasetEncoders:
    """A checkpoint's encoders, and the settings that all shards of one folder must share."""

    encoders: Encoders
    captions: "CaptionStates"
    identity: dict[str, Any]


def load_encoders(
    model: str, *, device: torch.device, max_tokens: int | None = None, tile: int | None = None
) -> DatasetEncoders:
    """The autoencoder and the caption encoder of a pipeline, as a data set is encoded with them.

    Latents are stored in fp16, whose 11 bits are finer than the bf16 that they are trained with, and caption states,
    which would overflow it, in bf16.

    Args:
        model: folder or Hub id of a pipeline, or "embedded".
        device: where to run; on a GPU in bf16.
        max_tokens: of a caption; None is the checkpoint's own.
        tile: pixels per side that the autoencoder takes at once; None is all of them.
    """
    source, revision = locate(model)
    dtype = half_on_gpu(device)
    autoencoder = DCAE.from_pretrained(source, subfolder="vae", revision=revision, dtype=dtype, device=device)
    encoder = CaptionEncoder.from_pretrained(
        source, revision=revision, dtype=dtype, device=device, max_tokens=max_tokens
    )

    @torch.inference_mode()
    def encode_images(images: Tensor) -> Tensor:
        return autoencoder.encode(images.to(device, dtype), tile=tile, progress=False).half()

    captions, config = CaptionStates(encoder), autoencoder.config
    return DatasetEncoders(
        Encoders(
            images=encode_images,
            captions=captions,
            channels=config.latent_channels,
            f=config.compression,
            scaling_factor=config.scaling_factor,
        ),
        captions,
        {"model": model, "max_tokens": encoder.max_tokens, "chi": encoder.chi, "dtype": str(dtype)},
    )


class CaptionStates:
    """Captions to states in bf16 and their mask; counts those that are cut, of which the encoder would warn each time.

    Attributes:
        cut: captions that were longer than the encoder takes.
    """

    def __init__(self, encoder: CaptionEncoder) -> None:
        self.encoder = encoder
        self.cut = 0

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Encode some captions."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            states, mask = self.encoder(texts)
        for warning in caught:
            if issubclass(warning.category, CaptionCutWarning):
                self.cut += 1
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return states.bfloat16(), mask


def trained_side(model: str, f: int) -> int:
    """Pixels per side that the transformer of a checkpoint was trained at."""
    return model_config(ModelSettings(init=model)).sample_size * f


def open_source(
    source: Path, out: Path, *, max_skipped: float, progress: bool, renew: bool = False
) -> tuple[ImageManifest, list[Skipped]]:
    """The manifest that `source` is, or that a folder has, or one made of the folder and kept in `out`.

    Also returns what was left out now. One that is kept in `out` is made again where `renew` asks for it.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is damaged, or nothing in it can be used, or `out` keeps the manifest of another folder, or of
            this one before it changed.
        TooManyBadSamplesError: too much of the folder cannot be used.
    """
    if source.is_file() or source.suffix == ".parquet":
        return ImageManifest.read(source), []
    if (source / MANIFEST).is_file():
        _warn_if_changed(source)
        return ImageManifest.read(source / MANIFEST), []
    if (out / MANIFEST).is_file() and not renew:
        _check_source(out / MANIFEST, source)
        return ImageManifest.read(out / MANIFEST, root=source), []
    return index(source, out, max_skipped=max_skipped, progress=progress)


def index(folder: Path, out: Path, *, max_skipped: float, progress: bool) -> tuple[ImageManifest, list[Skipped]]:
    """Write the manifest of `folder` into the folder `out`, and beside it what had to be left out; returns both."""
    manifest, skipped = index_folder(folder, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    with list_skipped_on_error(out / NOT_INDEXED):
        check_skipped(skipped, total=len(manifest) + len(skipped), fraction=max_skipped)
    write_skipped(out / NOT_INDEXED, skipped)
    manifest.write(out / MANIFEST)
    return manifest, skipped


def _warn_if_changed(folder: Path) -> None:
    """Warn where the folder holds something else than when `sana index-dataset` wrote the manifest into it."""
    then, now = ImageManifest.source_of(folder / MANIFEST), source_facts(folder)
    if then and {**then, "folder": None} != {**now, "folder": None}:  # it may have been moved as a whole
        warnings.warn(
            f"{folder} has {now['files']:,} images and tars and had {then['files']:,} when {MANIFEST} was written; "
            f"images or captions are new, gone or changed: include them with `sana index-dataset {folder}`",
            stacklevel=3,
        )


def _check_source(kept: Path, folder: Path) -> None:
    """Raise ValueError unless `kept` was made of `folder` as it is now."""
    then, now = ImageManifest.source_of(kept), source_facts(folder)
    if then == now:
        return
    if then.get("folder") != now["folder"]:
        raise ValueError(
            f"{kept} was made of {then.get('folder', 'an unknown folder')}, not of {folder}: give another OUT, or "
            "rebuild it with --retry"
        )
    raise ValueError(
        f"{folder} has {now['files']:,} images and tars and had {then['files']:,} when {kept} was made of it; images "
        "or captions are new, gone or changed: encode them with --retry"
    )
