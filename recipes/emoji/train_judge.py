"""Train the emoji judge from nothing: on real renders and on samples of the embedded model."""

import argparse
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from recipes.emoji.judge_batches import JudgeBatches, SamplePictures
from recipes.emoji.judge_evaluation import calibrate, measure
from recipes.emoji.judge_model import EmojiObjective, new_emoji_judge
from recipes.emoji.judge_tokenizer import train_judge_tokenizer
from recipes.emoji.scenes import scene_at
from recipes.emoji.sprites import FolderSprites, FontSprites, SpriteSheet, save_sprites
from sana_ae import DCAE
from sana_judge import VILAJudge
from sana_judge.training import QuestionBatcher, write_report
from sana_train import TrainConfig, Trainer

TOKENIZER_SCENES = 20_000
REPORT = "emoji-judge.json"


def prepare(data: Path) -> tuple[SpriteSheet, PreTrainedTokenizerFast]:
    """The sprites and the tokenizer of a data folder; what is missing is made, which needs the emoji font."""
    data.mkdir(parents=True, exist_ok=True)
    pictures, folder = data / "sprites", data / "tokenizer"
    if not pictures.exists():
        save_sprites(FontSprites(), pictures)
    sheet = SpriteSheet(FolderSprites(pictures))
    if not (folder / "tokenizer.json").exists():
        captions = (scene_at(index, sheet).caption for index in range(TOKENIZER_SCENES))
        train_judge_tokenizer(captions).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return sheet, tokenizer


def train(options: argparse.Namespace) -> dict[str, int]:
    """Train, or go on training; returns how many steps are taken, and on how many samples."""
    sprites, tokenizer = prepare(options.data)
    model = new_emoji_judge(tokenizer).to(options.device)
    config = model.model.config
    samples = _samples(options, "training").part(held_back=False)
    batches = JudgeBatches(
        sprites,
        samples,
        QuestionBatcher(model.questions, tile_tokens=config.tile_tokens),
        config,
        batch_size=options.batch_size,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.98), weight_decay=0.05)
    run = TrainConfig(
        run_dir=str(options.out / "run"),
        steps=options.steps,
        warmup_steps=min(300, options.steps // 10),
        decay_steps=options.steps * 4 // 10,
        final_lr_factor=0.02,
        ema_decay=0.998,
        precision="bf16",
        checkpoint_every=250,
        log_every=20,
        workers=options.workers,
    )
    # 144 patches: attention by plain matrix products is faster on a CPU than the flash kernel.
    with sdpa_kernel(SDPBackend.MATH) if options.device == "cpu" else nullcontext():
        trainer = Trainer.start_or_resume(
            model,
            EmojiObjective(pairwise=options.pairwise),
            optimizer,
            batches,
            run,
            settings={"batch_size": options.batch_size, "samples": len(samples.samples), "pairwise": options.pairwise},
            allow_changes=options.extend,
        )
        with stopped_after(options.minutes):
            if trainer.step < run.steps:
                trainer.fit()
    return {"taken": trainer.step, "samples": len(samples.samples)}


@contextmanager
def stopped_after(minutes: float | None) -> Iterator[None]:
    """Ask the run within this context to save and stop after so many minutes; None never does."""
    if minutes is None:
        yield
        return
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _samples(options: argparse.Namespace, split: str) -> SamplePictures:
    autoencoder = DCAE.from_pretrained(str(files("sana") / "embedded"), subfolder="vae", dtype=torch.float32)
    return SamplePictures.read(options.data, split, autoencoder.to(options.device).eval(), cache=options.out / "pixels")


def main() -> None:
    """Train the judge, or go on training; DIR/judge then holds it, and DIR/emoji-judge.json what it can do."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.train_judge", description=main.__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="samples/ of recipes.emoji.judge_samples"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--extend", action="store_true", help="go on to more steps than the run was begun with")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures of a step, with four questions each")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--pairwise", type=float, default=0.0, help="weight of the loss between pictures of a prompt")
    parser.add_argument("--minutes", type=float, help="save and stop then; the same command goes on")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches ahead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    trained = train(options)
    report = finish(options)
    names = ("steps", "batch_size", "lr", "pairwise")
    report["training"] = {name: getattr(options, name) for name in names} | trained
    write_report(options.out / REPORT, report)
    print(json.dumps(report, indent=2))


def finish(options: argparse.Namespace) -> dict[str, Any]:
    """Save the judge in fp16, calibrated, and measure it as it was saved."""
    averaged = VILAJudge.from_pretrained(options.out / "run" / "model")
    averaged.model.half()
    averaged.save_pretrained(options.out / "judge")
    judge = VILAJudge.from_pretrained(
        options.out / "judge", dtype=torch.float32, device=options.device, batch_tiles=128
    )
    try:
        calibrate(judge, _samples(options, "training").part(held_back=True))
        judge.facts.write(options.out / "judge")
    except ValueError as error:
        print(f"not calibrated: {error}")
    return measure(judge, prepare(options.data)[0], _samples(options, "held-out"))


if __name__ == "__main__":
    main()
