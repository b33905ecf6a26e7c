"""Train the independent detector that GenEval-emoji sees with: on real renders only, never on generated images."""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from recipes.emoji.contents import TAGS, sample_content
from recipes.emoji.detector_network import Detector, DetectorNetwork, iou
from recipes.emoji.detector_scenes import NO_COLOR, NO_OBJECT, DetectorBatches, wear
from recipes.emoji.scenes import Scene, arrange, render
from recipes.emoji.sprites import FontSprites, SpriteSheet
from sana_judge import Detection, Verdict, geneval
from sana_train import Draws, TrainConfig, Trainer

# GenEval's thresholds (0.3, and 0.9 for counting) are made for its own detector. The scores of this one are
# probabilities over 24 objects and "nothing": more likely than not is the bound for every task.
THRESHOLD = 0.5


def detection_loss(model: torch.nn.Module, batch: dict[str, Any], draws: Draws) -> Tensor:
    """Cross-entropy of class and colour and absolute error of the box, each per answering cell; nothing is random."""
    classes, colors, boxes = model(batch["images"])
    found, painted = batch["classes"] != NO_OBJECT, batch["colors"] != NO_COLOR
    class_loss = F.cross_entropy(classes.float(), batch["classes"], reduction="sum") / found.sum()
    color_loss = F.cross_entropy(colors.float(), batch["colors"], ignore_index=NO_COLOR, reduction="sum")
    box_loss = (boxes.float() - batch["boxes"]).abs().mean(dim=1)[found].mean()
    loss: Tensor = class_loss + color_loss / painted.sum().clamp(min=1) + box_loss
    return loss


def judge(found: Sequence[Detection], metadata: dict[str, Any]) -> Verdict:
    """GenEval's verdict at this detector's threshold."""
    return geneval.evaluate(found, metadata, threshold=THRESHOLD, counting_threshold=THRESHOLD)


def true_detections(scene: Scene) -> list[Detection]:
    """What a perfect detector would report."""
    return [Detection(name=item.name, score=1.0, box=item.box, color=item.color) for item in scene.objects]


def check(found: Sequence[Detection], scene: Scene, other: Scene) -> dict[str, bool]:
    """Whether the detections of one scene are right, in those respects that it has.

    counts: as many objects as there are; classes: the right ones; colors: of every painted object; exact: all three;
    positions: GenEval's verdict on a scene with a relation; verdicts: GenEval's verdict on the prompt of another
    scene of the same task is the one that the true boxes get, and its verdict on the scene's own prompt is "correct".
    """
    sure = [detection for detection in found if detection.score > THRESHOLD]
    nearest = [max(sure, key=lambda seen: iou(seen.box, item.box), default=None) for item in scene.objects]
    pairs = [(item, seen) for item, seen in zip(scene.objects, nearest, strict=True) if item.color]
    correct = judge(found, scene.metadata).correct
    same = judge(found, other.metadata).correct == judge(true_detections(scene), other.metadata).correct
    result = {
        "counts": len(sure) == len(scene.objects),
        "classes": sorted(seen.name for seen in sure) == sorted(item.name for item in scene.objects),
        "verdicts": correct and same,
    }
    if pairs:
        result["colors"] = all(seen is not None and seen.color == item.color for item, seen in pairs)
    if scene.content.relation:
        result["positions"] = correct
    result["exact"] = result["classes"] and result.get("colors", True)
    return result


def validate(detector: Detector, scenes: Sequence[Scene], images: Sequence[Image.Image]) -> dict[str, float]:
    """The share of scenes that pass each of the checks, of those that have it."""
    passed: dict[str, list[bool]] = {}
    for start in range(0, len(scenes), len(TAGS)):  # one scene of every task
        found = detector(images[start : start + len(TAGS)])
        for number, seen in enumerate(found, start):
            other = scenes[(number + len(TAGS)) % len(scenes)]
            for name, right in check(seen, scenes[number], other).items():
                passed.setdefault(name, []).append(right)
    return {name: round(sum(right) / len(right), 4) for name, right in passed.items()}


def validation_scenes(sprites: SpriteSheet, rounds: int) -> list[Scene]:
    """Scenes never trained on: one of every task and of the mixture, `rounds` times."""
    rng = random.Random("detector validation")
    return [arrange(sample_content(rng, tag), sprites, rng) for _ in range(rounds) for tag in TAGS]


def main() -> None:
    """Train the detector, or go on training; the result is DIR/detector, its accuracy in detector.json."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.detector", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    sprites = SpriteSheet(FontSprites())
    trained = train(sprites, options)
    scenes = validation_scenes(sprites, rounds=150)
    renders = [render(scene, sprites) for scene in scenes]
    rng = random.Random("detector wear")
    settings = {name: getattr(options, name) for name in ("steps", "batch_size", "lr")}
    report = {
        "settings": settings | {"threshold": THRESHOLD, "parameters": sum(p.numel() for p in trained.parameters())},
        "clean": validate(Detector(trained), scenes, [Image.fromarray(image) for image in renders]),
        "worn": validate(Detector(trained), scenes, [Image.fromarray(wear(image, rng)) for image in renders]),
    }
    trained.save_pretrained(options.out / "detector")
    (options.out / "detector" / "detector.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def train(sprites: SpriteSheet, options: argparse.Namespace) -> DetectorNetwork:
    """Run or resume the training of `main`'s options and return the averaged network, on the CPU."""
    torch.manual_seed(0)
    model = DetectorNetwork().to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.05)
    config = TrainConfig(
        run_dir=str(options.out / "detector-run"),
        steps=options.steps,
        warmup_steps=min(50, options.steps // 10),
        decay_steps=options.steps * 3 // 4,
        grad_clip=10.0,
        ema_decay=0.99,
        precision="bf16",
        checkpoint_every=100,
        log_every=20,
    )
    batches = DetectorBatches(sprites, batch_size=options.batch_size)
    if not Trainer.start_or_resume(model, detection_loss, optimizer, batches, config).fit():
        raise SystemExit("stopped: the same command goes on")
    return DetectorNetwork.from_pretrained(config.run_dir + "/model")


if __name__ == "__main__":
    main()
