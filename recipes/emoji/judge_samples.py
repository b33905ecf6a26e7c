"""Samples of the embedded model for its judge: latents, and what the independent detector sees in each picture."""

import argparse
import dataclasses
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from recipes.emoji.captions import caption
from recipes.emoji.contents import TASKS, Content, Group, sample_training_content
from recipes.emoji.detector_network import Detector
from recipes.emoji.geneval_emoji import evaluation_prompts
from recipes.emoji.release import EMBEDDED
from recipes.emoji.run_folder import digest
from recipes.emoji.scenes import LANGUAGE_WEIGHTS
from sana import SanaPipeline
from sana.pixels import to_pil
from sana_ae import DCAE
from sana_judge import Detection

DRAWN_BY, DECODED_BY = EMBEDDED / "transformer", EMBEDDED / "vae"  # the judge lies in EMBEDDED too
IMAGES_PER_PROMPT = 8
PROMPTS_PER_SHARD = 16
# Beyond every seed that GenEval-emoji uses, and another range for each split.
FIRST_SEED = {"training": 10_000_000, "held-out": 20_000_000}
HELD_OUT_PER_TASK = 24


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One picture that the model drew: what was asked for, in which words, and what the detector found."""

    content: Content
    prompt: str
    seed: int
    found: tuple[Detection, ...]


def sample_prompts(split: str, prompts: int) -> list[tuple[Content, str]]:
    """What is asked of the model: training contents of all tasks and languages, or GenEval-emoji's own prompts."""
    if split == "held-out":
        contents = evaluation_prompts(HELD_OUT_PER_TASK)
        order = sorted(range(len(contents)), key=lambda place: (place % HELD_OUT_PER_TASK, place))
        return [(contents[place], caption(contents[place], "english")) for place in order[:prompts]]
    return [_training_prompt(number) for number in range(prompts)]


def _training_prompt(number: int) -> tuple[Content, str]:
    rng = random.Random(f"judge samples {number}")
    content = sample_training_content(rng, TASKS[number % len(TASKS)])
    language = rng.choices(list(LANGUAGE_WEIGHTS), list(LANGUAGE_WEIGHTS.values()))[0]
    return content, caption(content, language, rng)


def write_samples(pipeline: SanaPipeline, detector: Detector, folder: Path, split: str, prompts: int) -> None:
    """Write the shards of a split that `folder` does not hold yet, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    check_samples(folder)
    asked = sample_prompts(split, prompts)
    model = digest(DRAWN_BY)
    for start in tqdm(range(0, len(asked), PROMPTS_PER_SHARD), unit="shard"):
        path = folder / f"{split}-{start // PROMPTS_PER_SHARD:05}.safetensors"
        if path.exists():
            continue
        part = asked[start : start + PROMPTS_PER_SHARD]
        first = FIRST_SEED[split] + start * IMAGES_PER_PROMPT
        latents, samples = _draw(pipeline, detector, part, first)
        records = json.dumps([dataclasses.asdict(sample) for sample in samples], ensure_ascii=False)
        save_file({"latents": latents}, path.with_suffix(".tmp"), metadata={"model": model, "samples": records})
        path.with_suffix(".tmp").replace(path)


def check_samples(folder: Path) -> None:
    """Raise ValueError where a shard was drawn with other weights than the embedded model has now."""
    now = digest(DRAWN_BY)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            then = file.metadata()["model"]
        if then != now:
            raise ValueError(f"{path} was drawn with {then} and the model is {now}: remove {folder}, draw again")


def _draw(
    pipeline: SanaPipeline, detector: Detector, asked: Sequence[tuple[Content, str]], first_seed: int
) -> tuple[Tensor, list[Sample]]:
    """Latents (N, 32, 4, 4) in fp16, times the scaling factor, and what the detector sees in their pictures."""
    prompts = [pair for pair in asked for _ in range(IMAGES_PER_PROMPT)]
    seeds = range(first_seed, first_seed + len(prompts))
    scale, steps = pipeline.facts.guidance_scale, pipeline.facts.steps_for(False)
    captions, negative = pipeline.encode([prompt for _, prompt in prompts], guidance_scale=scale)
    latents = pipeline.denoise(
        captions, negative, seeds, size=pipeline.sizes(None, None)[0], steps=steps, guidance_scale=scale
    )
    latents = latents.half()
    found = detector(decode(pipeline.autoencoder, latents))
    samples = [
        Sample(content=content, prompt=prompt, seed=seed, found=tuple(seen))
        for (content, prompt), seed, seen in zip(prompts, seeds, found, strict=True)
    ]
    return latents.contiguous(), samples


@torch.inference_mode()
def decode(autoencoder: DCAE, latents: Tensor) -> list[Image.Image]:
    """The pictures of stored latents, drawn on the autoencoder's device in its dtype."""
    weight = next(autoencoder.parameters())
    parts = (latents.float() / autoencoder.config.scaling_factor).to(weight).split(32)
    return [picture for part in parts for picture in to_pil(autoencoder.decode(part).float())]


def read_samples(folder: Path, split: str) -> Iterator[tuple[Tensor, list[Sample]]]:
    """The shards of a split in order: latents (N, 32, 4, 4) in fp16 and their samples.

    Raises FileNotFoundError where there is none, ValueError where the model is another one now.
    """
    check_samples(folder)
    paths = sorted(folder.glob(f"{split}-*.safetensors"))
    if not paths:
        raise FileNotFoundError(
            f"no {split} samples in {folder}: write them with python -m recipes.emoji.judge_samples"
        )
    for path in paths:
        with safe_open(path, "pt") as file:
            records = json.loads(file.metadata()["samples"])
            yield file.get_tensor("latents"), [_sample(record) for record in records]


def _sample(record: dict[str, Any]) -> Sample:
    groups = tuple(Group(**group) for group in record["content"]["groups"])
    content = Content(record["content"]["tag"], groups, record["content"]["relation"])
    found = tuple(Detection(**seen | {"box": tuple(seen["box"])}) for seen in record["found"])
    return Sample(content=content, prompt=record["prompt"], seed=record["seed"], found=found)


def main() -> None:
    """Draw with the embedded model, or go on drawing, into DIR/samples; the pictures are judged by DIR/detector."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.judge_samples", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--detector", type=Path, required=True, metavar="DIR")
    parser.add_argument("--training-prompts", type=int, default=480)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    pipeline = SanaPipeline.embedded(device=options.device)
    detector = Detector.from_pretrained(options.detector)
    held_out = HELD_OUT_PER_TASK * len(TASKS)
    for split, prompts in (("held-out", held_out), ("training", options.training_prompts)):
        write_samples(pipeline, detector, options.out / "samples", split, prompts)


if __name__ == "__main__":
    main()
