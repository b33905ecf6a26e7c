"""The sections of an autoencoder's training run as dataclasses, read from its file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sana_ae
from sana.training.run_file import Section, check_sections, fill, filled_preset, read_run_file
from sana_ae import DCAEConfig
from sana_ae.training import HIGH_RESOLUTION_LATENT, LOW_RESOLUTION_FULL, LOW_RESOLUTION_REFINEMENT, TrainingPhase
from sana_train import TrainConfig

AUTOENCODERS: dict[str, DCAEConfig] = {
    name: preset for name in sana_ae.__all__ if isinstance(preset := getattr(sana_ae, name), DCAEConfig)
}
PHASES: dict[str, TrainingPhase] = {
    "LOW_RESOLUTION_FULL": LOW_RESOLUTION_FULL,
    "HIGH_RESOLUTION_LATENT": HIGH_RESOLUTION_LATENT,
    "LOW_RESOLUTION_REFINEMENT": LOW_RESOLUTION_REFINEMENT,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderSettings:
    """[autoencoder]: what to train.

    Attributes:
        init: folder, file or Hub id of an autoencoder or pipeline to go on from, or "embedded"; None starts from
            random weights.
        config: shape of one that starts from random weights. In the file: `preset`, such as "DC_AE_F32C32_SANA", and
            fields of `DCAEConfig`, which replace those of the preset.
    """

    init: str | None = None
    config: DCAEConfig | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PerceptionSettings:
    """[perception]: files of LPIPS, torchvision's VGG16 and the heads of version 0.1. Without them it is MS-SSIM."""

    vgg16: str
    heads: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSettings:
    """[data]: folder of images, crops of a step over all processes, seed, and the share of images that may be bad."""

    images: str
    batch_size: int
    seed: int = 0
    max_bad: float = 0.05

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.max_bad <= 1:
            raise ValueError(
                f"batch_size is {self.batch_size} and max_bad {self.max_bad}; they must be at least 1 and from 0 to 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutSettings:
    """[validation]: folder of held-out images, how many are measured, how many of them are drawn as samples.

    `inception` is the file of FID's Inception, pt_inception-2015-12-05-6726825d.pth; with it rFID is measured too.
    """

    images: str
    count: int = 64
    samples: int = 8
    batch_size: int = 8
    inception: str | None = None

    def __post_init__(self) -> None:
        for name in ("count", "samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.inception is not None and self.count < 2:
            raise ValueError(f"count is {self.count} and inception {self.inception}: rFID needs at least 2 images")


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderRun:
    """One run: each field is a section of its file. One phase is one run; the next begins with its model."""

    train: TrainConfig
    autoencoder: AutoencoderSettings
    phase: TrainingPhase
    data: ImageSettings
    perception: PerceptionSettings | None = None
    validation: HeldOutSettings | None = None

    def __post_init__(self) -> None:
        """Refuse what one section says and another denies."""
        wanted = self.train.validate_every > 0 or self.train.sample_every > 0
        if wanted != (self.validation is not None):
            given = "is given" if self.validation else "is missing"
            raise ValueError(
                f"[validation] {given}, [train] validate_every is {self.train.validate_every} and sample_every "
                f"{self.train.sample_every}: give the section with either, or none of them"
            )
        if self.train.step_in_backward and self.phase.adaptive:
            raise ValueError(
                "[train] step_in_backward and [phase] adaptive are both true: the adaptive weight goes through the "
                "graph twice; leave one out"
            )


def read_autoencoder_run(path: str | Path, changes: Sequence[str] = ()) -> AutoencoderRun:
    """The settings of a run file, some of them changed; see `read_run_file`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a section or key is unknown, missing, contradicts another, or has a wrong value; says which.
    """
    sections = read_run_file(path, changes)
    needed = ("train", "autoencoder", "phase", "data")
    check_sections(sections, AutoencoderRun, needed=needed, where=str(path))
    optional = {"perception": PerceptionSettings, "validation": HeldOutSettings}
    return AutoencoderRun(
        train=fill(TrainConfig, sections["train"], where="[train]"),
        autoencoder=_autoencoder(sections["autoencoder"]),
        phase=filled_preset(sections["phase"], PHASES, where="[phase]"),
        data=fill(ImageSettings, sections["data"], where="[data]"),
        **{name: fill(kind, sections[name], where=f"[{name}]") for name, kind in optional.items() if name in sections},
    )


def _autoencoder(section: Section) -> AutoencoderSettings:
    if "init" not in section:
        return AutoencoderSettings(config=filled_preset(section, AUTOENCODERS, where="[autoencoder]"))
    if len(section) > 1:
        others = ", ".join(key for key in section if key != "init")
        raise ValueError(f"[autoencoder] has init and {others}: a checkpoint brings its own shape, leave these out")
    return fill(AutoencoderSettings, section, where="[autoencoder]")
