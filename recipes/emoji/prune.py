"""Depth pruning of the emoji model: 2/3, 1/2 and 1/3 of its blocks, chosen in three ways, before and after recovery."""

import argparse
import copy
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from recipes.emoji.captions import LANGUAGES
from recipes.emoji.detector_network import Detector
from recipes.emoji.encode_scenes import FIRST_HELD_OUT, encode_shard, load_shards, tokenize
from recipes.emoji.geneval_emoji import Settings, evaluate, sampling_of
from recipes.emoji.release import EMBEDDED, ROOT
from recipes.emoji.run_folder import append_line, claim, digest, finished_lines, weights_hash, write_json
from recipes.emoji.sprites import FontSprites, SpriteSheet
from recipes.emoji.train_transformer import EncodedScenes
from sana import SanaPipeline
from sana.pruning.calibration import Calibration, calibration_prompts, measure_importance
from sana.pruning.recovery import recover_on_batches
from sana_dit import SanaTransformer
from sana_scale import BlockImportance, PrunePlan, prune_depth
from sana_scale.depth import evenly_spaced, plot_importance, plot_importance_by_time, random_blocks
from sana_train import FlowMatching, FlowValidation

RESULT = ROOT / "benchmarks" / "results" / "emoji-prune.json"
SELECTORS = ("importance", "uniform", "random")
KEPT = (2 / 3, 1 / 2, 1 / 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the experiment measures; results of different plans never share a folder."""

    model: str
    steps: int
    batch_size: int
    lr: float
    seeds: int
    prompts: int
    held_out: int
    kept: tuple[float, ...] = KEPT


class CaptionedScenes:
    """Encoded scenes with captions embedded by a pipeline's frozen text encoder."""

    def __init__(self, scenes: EncodedScenes, pipeline: SanaPipeline) -> None:
        self._scenes = scenes
        self._text_encoder = pipeline.caption_encoder.text_encoder

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        return embedded(self._scenes(step), self._text_encoder)


@torch.no_grad()
def embedded(batch: dict[str, Any], text_encoder: torch.nn.Module) -> dict[str, Any]:
    """A batch with embeddings (B, L, Dc) for token ids (B, L)."""
    device = next(text_encoder.parameters()).device
    tokens, mask = batch["caption"].to(device), batch["caption_mask"].to(device)
    caption: Tensor = text_encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
    return batch | {"caption": caption}


def validation(pipeline: SanaPipeline, objective: FlowMatching, count: int) -> FlowValidation:
    """The velocity loss on scenes that nobody has trained on."""
    encoder = pipeline.caption_encoder
    indices = range(FIRST_HELD_OUT, FIRST_HELD_OUT + count)
    scenes = encode_shard(pipeline.autoencoder, encoder.tokenizer, SpriteSheet(FontSprites()), indices)
    rng = random.Random("languages")
    tokens = scenes["tokens"].long()[torch.arange(count), torch.tensor(rng.choices(range(len(LANGUAGES)), k=count))]
    batch = {
        "latents": scenes["latents"].float() * pipeline.autoencoder.config.scaling_factor,
        "caption": tokens,
        "caption_mask": tokens != encoder.tokenizer.pad_token_id,
        "key": [str(index) for index in indices],
    }
    return FlowValidation(embedded(batch, encoder.text_encoder), objective=objective, batch_size=64)


def kept_blocks(selector: str, keep: int, importance: BlockImportance, seed: int) -> list[int]:
    """The blocks that stay."""
    depth = len(importance.values)
    if selector == "uniform":
        return evenly_spaced(depth, keep)
    if selector == "random":
        return random_blocks(depth, keep, seed=seed)
    return sorted(importance.values.argsort(descending=True)[:keep].tolist())


class Experiment:
    """One model, pruned in every way; stopped at any time, it goes on after the last finished one."""

    def __init__(self, pipeline: SanaPipeline, plan: Plan, out: Path, data: Path) -> None:
        self.pipeline, self.plan, self.out = pipeline, plan, out
        self.teacher: SanaTransformer = pipeline.transformer
        claim(out, plan)
        steps, scale = pipeline.settings(None, None)
        prompts = tuple(calibration_prompts("embedded")[: plan.prompts])
        calibration = Calibration(prompts=prompts, seed=0, steps=steps, guidance_scale=scale)
        self.importance, _ = measure_importance(pipeline, calibration)
        self.shift = pipeline.facts.flow_shift
        self.validate = validation(pipeline, FlowMatching(shift=self.shift), plan.held_out)
        tokenizer = pipeline.caption_encoder.tokenizer
        scenes = EncodedScenes(
            load_shards(data),
            tokenize([""], tokenizer)[0],
            scaling_factor=pipeline.autoencoder.config.scaling_factor,
            batch_size=plan.batch_size,
        )
        self.batches = CaptionedScenes(scenes, pipeline)

    def run(self, selectors: Sequence[str] = SELECTORS) -> list[dict[str, Any]]:
        """A line per selector, depth and seed: blocks kept, loss before and after."""
        results = self.out / "results.jsonl"
        lines = finished_lines(results)
        done = {(line["selector"], line["keep"], line["seed"]) for line in lines}
        ways = [way for way in product(selectors, self._depths(), range(self.plan.seeds)) if way not in done]
        for selector, keep, seed in tqdm(ways, unit="model"):
            lines.append(self._measure(selector, keep, seed))
            append_line(results, lines[-1])
        return lines

    def pruned(self, kept: Sequence[int]) -> tuple[SanaTransformer, PrunePlan]:
        """A copy of the model with these blocks, and the plan."""
        return prune_depth(copy.deepcopy(self.teacher), keep=list(kept), importance=self.importance)

    def recovered(self, model: SanaTransformer, plan: PrunePlan, name: str, *, seed: int) -> SanaTransformer:
        """The model after recovery on the scenes that the unpruned one was trained on."""
        recover = recover_on_batches(
            self.batches,
            self.out / name,
            shift=self.shift,
            steps=self.plan.steps,
            lr=self.plan.lr,
            seed=seed,
            progress=False,
        )
        return recover(model, self.teacher, plan)

    def _depths(self) -> list[int]:
        return [round(share * len(self.importance.values)) for share in self.plan.kept]

    def _measure(self, selector: str, keep: int, seed: int) -> dict[str, Any]:
        kept = kept_blocks(selector, keep, self.importance, seed)
        model, plan = self.pruned(kept)
        before = self.validate(model)["val/loss"]
        after = self.validate(self.recovered(model, plan, f"{selector}-{keep}-{seed}", seed=seed))["val/loss"]
        return {"selector": selector, "keep": keep, "seed": seed, "kept": kept, "before": before, "after": after}


def geneval(experiment: Experiment, detector: Path, *, prompts_per_task: int, images: int) -> list[dict[str, Any]]:
    """GenEval-emoji of the unpruned model, and once per depth of those pruned by importance, before and after."""
    pipeline, lines = experiment.pipeline, []
    depth = len(experiment.importance.values)
    for keep in [depth, *(round(share * depth) for share in experiment.plan.kept)]:
        model, plan = experiment.pruned(kept_blocks("importance", keep, experiment.importance, 0))
        states = {"before": model}
        if keep < depth:
            states["after"] = experiment.recovered(model, plan, f"importance-{keep}-0", seed=0)
        for state, transformer in states.items():
            pipeline.transformer = transformer.eval()
            settings = Settings(
                model=f"{experiment.plan.model}, {keep} blocks, {state}",
                detector=digest(detector),
                prompts_per_task=prompts_per_task,
                images_per_prompt=images,
            )
            out = experiment.out / f"geneval-{keep}-{state}"
            detect = Detector.from_pretrained(detector)
            sampling = sampling_of(pipeline, steps=None, guidance_scale=None)
            table = evaluate(_silent(pipeline), detect, out, settings, sampling=sampling)
            drawn = json.loads((out / "table.json").read_text())["settings"]
            lines.append({"keep": keep, "state": state, "overall": table.overall, "tasks": table.tasks, "drawn": drawn})
    pipeline.transformer = experiment.teacher
    return lines


def _silent(pipeline: SanaPipeline) -> Any:
    return lambda prompt, seeds: pipeline(prompt, seeds, progress=False)


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw the loss of every way of pruning, before and after recovery, against the number of blocks."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, state in zip(figure.subplots(1, 2), ("before", "after"), strict=True):
        for number, selector in enumerate(dict.fromkeys(line["selector"] for line in report["losses"])):
            lines = [line for line in report["losses"] if line["selector"] == selector]
            depths = sorted({line["keep"] for line in lines})
            means = [fmean(line[state] for line in lines if line["keep"] == keep) for keep in depths]
            axes.plot(depths, means, color=f"C{number}", marker="o", label=selector)
            axes.plot([line["keep"] for line in lines], [line[state] for line in lines], ".", color=f"C{number}")
        axes.axhline(report["unpruned"], color="0.4", linestyle=":", label="unpruned")
        steps = f"after {report['plan']['steps']} steps" if state == "after" else "before recovery"
        axes.set(xlabel="blocks kept", ylabel="validation loss", title=steps)
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Prune and recover the model in every way, or go on; the result is a JSON file with plots beside it."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.prune", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder: latents, detector")
    parser.add_argument("--model", default="embedded", help="a pipeline folder")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--selectors", nargs="+", choices=SELECTORS, default=SELECTORS)
    parser.add_argument("--prompts", type=int, default=100, help="that importance is measured with")
    parser.add_argument("--held-out", type=int, default=512, help="scenes that the loss is measured on")
    parser.add_argument("--prompts-per-task", type=int, default=24, help="of GenEval-emoji; 0 leaves it out")
    parser.add_argument("--images-per-prompt", type=int, default=4)
    parser.add_argument("--result", type=Path, default=RESULT, metavar="JSON")
    parser.add_argument("--device")
    options = parser.parse_args()

    folder = EMBEDDED if options.model == "embedded" else Path(options.model)
    plan = Plan(
        model=f"{options.model} {weights_hash(folder / 'transformer')}",
        **{name: getattr(options, name) for name in ("steps", "batch_size", "lr", "seeds", "prompts", "held_out")},
    )
    pipeline = SanaPipeline.from_pretrained(options.model, device=options.device, dtype=torch.float32)
    experiment = Experiment(pipeline, plan, options.out / "prune", options.out / "latents")
    losses = experiment.run(options.selectors)
    report = {
        "plan": asdict(plan),
        "importance": experiment.importance.values.tolist(),
        "standard_errors": experiment.importance.standard_errors.tolist(),
        "unpruned": experiment.validate(experiment.teacher)["val/loss"],
        "losses": losses,
    }
    if options.prompts_per_task:
        detector, images = options.out / "detector", options.images_per_prompt
        report["geneval"] = geneval(experiment, detector, prompts_per_task=options.prompts_per_task, images=images)
    write_json(options.result, report)
    plot(report, options.result.with_suffix(".png"))
    plot_importance(experiment.importance, options.result.with_name(f"{options.result.stem}-importance.png"))
    plot_importance_by_time(experiment.importance, options.result.with_name(f"{options.result.stem}-by-time.png"))


if __name__ == "__main__":
    main()
