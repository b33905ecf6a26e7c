"""The folder of a pipeline, as diffusers lays it out, and the facts its files hold beside the weights."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from sana.catalog import nearest
from sana.pipeline_scheduler import FLOW_DPM, SCHEDULER, SCM, read_flow_shift
from sana_scale.files import write_json

INDEX, FACTS, TRANSFORMER = "model_index.json", "sana.json", "transformer/config.json"
PIPELINES = ("SanaPipeline", "SanaSprintPipeline")
COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
DIFFUSERS_VERSION = "0.32.0"  # the first release that reads every key written here


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineFacts:
    """How a checkpoint wants to be sampled.

    Attributes:
        flow_shift: shift of the noise levels; read from the scheduler's file.
        steps: evaluations per picture, None for the usual (20; Sprint 2).
        guidance_scale: of classifier-free guidance, or Sprint's input.
    """

    flow_shift: float = 3.0
    steps: int | None = None
    guidance_scale: float = 4.5

    def __post_init__(self) -> None:
        for name in ("flow_shift", "guidance_scale"):
            if not isinstance(getattr(self, name), int | float):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a number")
        if self.steps is not None and not (isinstance(self.steps, int) and self.steps >= 1):
            raise ValueError(f"steps is {self.steps!r}; it must be a whole number of at least 1, or null")

    def steps_for(self, sprint: bool) -> int:
        """The default number of steps."""
        return self.steps or (2 if sprint else 20)


def check_components(repo_or_dir: str | Path) -> None:
    """Raise FileNotFoundError where a local folder is not a pipeline or lacks a component; a Hub id passes.

    Raises:
        ValueError: it is a file.
    """
    folder = Path(repo_or_dir)
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file; a pipeline is a folder or a Hub repository. If it holds a transformer, take the rest "
            "from a pipeline: SanaPipeline(CaptionEncoder.from_pretrained(pipeline), "
            f"SanaTransformer.from_pretrained({str(folder)!r}), DCAE.from_pretrained(pipeline))"
        )
    if not folder.is_dir():
        text = str(repo_or_dir)
        if isinstance(repo_or_dir, Path) or text.count("/") != 1 or text.startswith(("/", ".", "~")):
            meant = nearest(text)
            raise FileNotFoundError(
                f"no model {text!r}: "
                + (f"did you mean {meant!r}? Else " if meant else "")
                + "give a pipeline folder, a Hub id, or one of the names that `sana list` shows"
            )
        return
    missing = [name for name in (INDEX, *COMPONENTS) if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} is not a whole pipeline: it lacks {', '.join(missing)}; "
            f"a pipeline has {INDEX} and the folders {', '.join(COMPONENTS)}"
        )


def read_facts(repo_or_dir: str | Path, *, revision: str | None = None) -> PipelineFacts:
    """The facts of a folder or Hub repository.

    Raises:
        FileNotFoundError: it has no scheduler.
        ValueError: it is sampled otherwise than Sana is here, or a part of Sprint is beside one of plain Sana.
    """
    scheduler = read_json(repo_or_dir, SCHEDULER, revision)
    if scheduler is None:
        raise FileNotFoundError(f"{repo_or_dir} has no {SCHEDULER}")
    kind = (read_json(repo_or_dir, INDEX, revision) or {}).get("_class_name")
    if kind not in PIPELINES:
        raise ValueError(
            f"{INDEX} of {repo_or_dir} is that of a {kind}; it must be one of {', '.join(PIPELINES)}: draw with "
            "diffusers, where sana_dit.accelerate_diffusers takes pipelines without ControlNet and PAG"
        )
    shift = read_flow_shift(scheduler)
    sprint = kind == PIPELINES[1]
    transformer = read_json(repo_or_dir, TRANSFORMER, revision)
    guided = sprint if transformer is None else transformer.get("guidance_embeds", False)
    if len({sprint, scheduler["_class_name"] == SCM, bool(guided)}) > 1:
        raise ValueError(
            f"{repo_or_dir} mixes SANA and SANA-Sprint: {INDEX} names a {kind}, {SCHEDULER} a "
            f"{scheduler['_class_name']}, and {TRANSFORMER} has guidance_embeds {guided}; Sprint is a {PIPELINES[1]} "
            f"with a {SCM} and guidance_embeds, and a {PIPELINES[0]} has neither"
        )
    own = (read_json(repo_or_dir, FACTS, revision) or {}).get("pipeline") or {}
    known = {field.name for field in fields(PipelineFacts)} - {"flow_shift"}
    if not isinstance(own, dict):
        raise ValueError(f"{FACTS} of {repo_or_dir} has {own!r} under 'pipeline', not an object of {sorted(known)}")
    if unknown := sorted(own.keys() - known):
        raise ValueError(f"{FACTS} of {repo_or_dir} has unknown pipeline facts {unknown}; known are {sorted(known)}")
    return PipelineFacts(flow_shift=shift, **own)


def find_file(repo_or_dir: str | Path, name: str, revision: str | None = None) -> Path | None:
    """Where one file of a folder or Hub repository lies on this machine, None where it is not there."""
    path = Path(repo_or_dir) / name
    if not Path(repo_or_dir).is_dir():
        try:
            path = Path(hf_hub_download(str(repo_or_dir), name, revision=revision))
        except LocalEntryNotFoundError:
            # The Hub was not reached: what lies beside a cached index is all that this revision is known to have.
            if isinstance(try_to_load_from_cache(str(repo_or_dir), INDEX, revision=revision), str):
                return None
            raise FileNotFoundError(
                f"{name} of {repo_or_dir} is not in the cache, and the Hub was not reached: run `hf download "
                f"{repo_or_dir}` where there is a network, copy the cache (HF_HOME) here and set HF_HUB_OFFLINE=1, or "
                "give the path of a folder"
            ) from None
        except EntryNotFoundError:
            return None
    return path if path.exists() else None


def read_json(repo_or_dir: str | Path, name: str, revision: str | None = None) -> dict[str, Any] | None:
    """One JSON file of a folder or Hub repository, None where it is not there."""
    path = find_file(repo_or_dir, name, revision)
    if path is None:
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): download it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, not an object: download it again")
    return values


def write_facts(directory: Path, facts: PipelineFacts, *, sprint: bool, text_encoder: str, tokenizer: str) -> None:
    """Write scheduler/, sana.json and, last, model_index.json."""
    kind = SCM if sprint else FLOW_DPM
    version = {"_diffusers_version": DIFFUSERS_VERSION}
    settings: dict[str, Any] = {"prediction_type": "trigflow", "sigma_data": 0.5}
    if not sprint:
        settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": facts.flow_shift}
    (directory / SCHEDULER).parent.mkdir(parents=True, exist_ok=True)
    write_json(directory / SCHEDULER, {"_class_name": kind, **version, "num_train_timesteps": 1000, **settings})
    write_json(directory / FACTS, {"pipeline": {"steps": facts.steps, "guidance_scale": facts.guidance_scale}})
    index = {
        "_class_name": "SanaSprintPipeline" if sprint else "SanaPipeline",
        **version,
        "scheduler": ["diffusers", kind],
        "text_encoder": ["transformers", text_encoder],
        "tokenizer": ["transformers", tokenizer],
        "transformer": ["diffusers", "SanaTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderDC"],
    }
    write_json(directory / INDEX, index)
