"""Put a trained and measured emoji model into the package: weights in fp16, a model card, the table it claims."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from jinja2 import StrictUndefined, Template

from recipes.emoji.run_folder import digest
from recipes.emoji.train_transformer import CAPTION_DROPOUT
from recipes.emoji.vocabulary import COLORS, THINGS
from sana import SanaPipeline

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "src" / "sana" / "embedded"
CARD = ROOT / "src" / "sana" / "model_cards" / "emoji.md"
TABLE = ROOT / "benchmarks" / "results" / "geneval-emoji.json"
LARGEST = 48_000_000
# What the runs wrote about themselves.
MEASURED = {
    "autoencoder": "autoencoder.json",
    "transformer": "transformer.json",
    "detector": "detector/detector.json",
}


def release(run: Path, evaluation: Path, *, machine: str) -> None:
    """Write the embedded model from `run` and its card from what `evaluation` measured.

    Raises ValueError where the weights would take more than 48 MB, or where other weights were measured.
    """
    pipeline = SanaPipeline.from_pretrained(run / "pipeline", device="cpu")
    table = json.loads((evaluation / "table.json").read_text())
    if (measured := table["settings"]["model"]) != digest(run / "pipeline"):
        raise ValueError(f"{evaluation} measured {measured}, not {digest(run / 'pipeline')}: evaluate this model first")
    for part in (pipeline.transformer, pipeline.autoencoder, pipeline.caption_encoder.text_encoder):
        part.to(torch.float16)
    staging = run / "embedded"
    shutil.rmtree(staging, ignore_errors=True)
    pipeline.save_pretrained(staging)
    size = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    if size > LARGEST:
        raise ValueError(
            f"the model takes {size:,} bytes; at most {LARGEST:,} come with the package: train a smaller one"
        )
    (staging / "README.md").write_text(card(pipeline, run, table, machine=machine))
    for path in EMBEDDED.iterdir() if EMBEDDED.exists() else ():
        if path.name != "judge":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(staging, EMBEDDED, dirs_exist_ok=True)
    measured = {name: json.loads((run / path).read_text()) for name, path in MEASURED.items()}
    TABLE.write_text(json.dumps(table | {"machine": machine} | measured, indent=2) + "\n")


def card(pipeline: SanaPipeline, run: Path, table: dict[str, Any], *, machine: str) -> str:
    """The model card, every number of which was measured or counted."""
    parts = {
        "autoencoder": pipeline.autoencoder,
        "transformer": pipeline.transformer,
        "text": pipeline.caption_encoder.text_encoder,
    }
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
    autoencoder, training, detector = (json.loads((run / path).read_text()) for path in MEASURED.values())
    text = pipeline.caption_encoder.text_encoder.config
    rows = [f"| {task} | {score:.2f} |" for task, score in table["tasks"].items()]
    return Template(CARD.read_text(), undefined=StrictUndefined, keep_trailing_newline=True).render(
        {f"{name}_parameters": f"{count:,}" for name, count in counts.items()},
        objects=len(THINGS),
        colours=len(COLORS),
        caption_dropout=f"{training.get('caption_dropout', CAPTION_DROPOUT):.0%}",
        parameters=f"{sum(counts.values()):,}",
        layers=pipeline.transformer.config.num_layers,
        width=pipeline.transformer.config.width,
        text_layers=text.num_hidden_layers,
        text_width=text.hidden_size,
        vocabulary=text.vocab_size,
        autoencoder_training=autoencoder_training(autoencoder),
        autoencoder_batch=autoencoder["batch_size"],
        psnr=autoencoder["psnr_db"],
        transformer_steps=training["steps"],
        transformer_batch=training["batch_size"],
        flow_shift=pipeline.facts.flow_shift,
        guidance_scale=pipeline.facts.guidance_scale,
        measured=table["settings"],
        detector_exact=f"{detector['clean']['exact']:.1%}",
        machine=machine,
        table="\n".join([*rows, f"| **overall** | **{table['overall']:.2f}** |"]),
    )


def autoencoder_training(report: dict[str, Any]) -> str:
    """In words what an autoencoder.json says of its training; earlier ones name no losses."""
    parts = {"all": "all of it", "decoder": "its decoder", "decoder_head": "its decoder's head"}
    phases = [
        f"{phase['steps']} steps of {parts[phase['trains']]} with {' + '.join(phase['losses'])}"
        for phase in report.get("training", ())
    ]
    return ", then ".join(phases) or f"{report['steps']} steps"


def main() -> None:
    """Release the model of DIR/pipeline, measured in DIR/evaluation, into src/sana/embedded."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.release", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--machine", required=True, help="what it was trained on, and for how long: goes into the card")
    options = parser.parse_args()
    release(options.out, options.out / "evaluation", machine=options.machine)


if __name__ == "__main__":
    main()
