"""Put a trained and measured emoji judge into the package: weights in fp16, a card, the numbers it claims."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template

from recipes.emoji.judge_samples import DRAWN_BY, IMAGES_PER_PROMPT
from recipes.emoji.release import EMBEDDED, ROOT
from recipes.emoji.run_folder import digest
from recipes.emoji.train_judge import REPORT
from recipes.emoji.vocabulary import COLORS, THINGS
from sana_judge import VILAJudge
from sana_judge.training import write_report

JUDGE = EMBEDDED / "judge"
CARD = ROOT / "src" / "sana" / "model_cards" / "emoji_judge.md"
RESULTS = ROOT / "benchmarks" / "results" / REPORT
LARGEST = 10_000_000


def release(run: Path, *, machine: str) -> None:
    """Write the embedded judge from `run/judge`, and its card from what `run` measured of it.

    Raises ValueError where it takes more than 10 MB.
    """
    report = json.loads((run / REPORT).read_text())
    size = sum(path.stat().st_size for path in (run / "judge").rglob("*") if path.is_file())
    if size > LARGEST:
        raise ValueError(f"the judge takes {size:,} bytes; at most {LARGEST:,} come with the package: make it smaller")
    staging = JUDGE.with_name(".judge")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(run / "judge", staging)
    (staging / "README.md").write_text(card(VILAJudge.from_pretrained(staging), report, size=size, machine=machine))
    shutil.rmtree(JUDGE, ignore_errors=True)
    staging.rename(JUDGE)
    facts = {"machine": machine, "judge": digest(JUDGE), "samples_of": digest(DRAWN_BY)}
    write_report(RESULTS, facts | report)


def card(judge: VILAJudge, report: dict[str, Any], *, size: int, machine: str) -> str:
    """The model card, every number of which was measured or counted."""
    parts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in judge.model.named_children()}
    vision, language, training = judge.model.config.vision, judge.model.config.language, report["training"]
    return Template(CARD.read_text(), undefined=StrictUndefined, keep_trailing_newline=True).render(
        parts,
        objects=len(THINGS),
        colours=len(COLORS),
        parameters=f"{sum(parts.values()):,}",
        megabytes=f"{size / 1e6:.1f}",
        tile=vision.image_size,
        patch=vision.patch_size,
        vision_layers=vision.num_hidden_layers,
        vision_width=vision.hidden_size,
        layers=language.num_hidden_layers,
        width=language.hidden_size,
        vocabulary=language.vocab_size,
        steps=f"{training['taken']:,}",
        batch_size=training["batch_size"],
        samples=f"{training['samples']:,}",
        images_per_prompt=IMAGES_PER_PROMPT,
        machine=machine,
        scenes=_table(report["scenes"]),
        samples_table=_table(report["samples"]),
    )


def _table(report: dict[str, Any]) -> str:
    rows = [*report["tasks"].items(), ("**all**", report)]
    return "\n".join(
        f"| {task} | {numbers['examples']:,} | {_share(numbers['auc'])} | {_share(numbers['per_prompt_auc'])} | "
        f"{_share(numbers['accuracy'])} | {_share(numbers['calibration_error'])} |"
        for task, numbers in rows
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main() -> None:
    """Release the judge of DIR/judge, measured in DIR/emoji-judge.json, into src/sana/embedded/judge."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.judge_release", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--machine", required=True, help="what it was trained on, and for how long: goes into the card")
    options = parser.parse_args()
    release(options.out, machine=options.machine)


if __name__ == "__main__":
    main()
