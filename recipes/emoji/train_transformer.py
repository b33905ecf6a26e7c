"""Train the emoji transformer together with its caption encoder, a tiny Gemma-2, by flow matching."""

import argparse
import json
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, Gemma2Config, Gemma2Model

from recipes.emoji.captions import LANGUAGES
from recipes.emoji.encode_scenes import MAX_TOKENS, load_shards, shard_facts, tokenize
from recipes.emoji.epoch_order import EpochOrder
from recipes.emoji.scenes import LANGUAGE_WEIGHTS
from sana import PipelineFacts, SanaPipeline
from sana_ae import DCAE
from sana_dit import CaptionEncoder, SanaConfig, SanaTransformer
from sana_train import FlowMatching, TrainConfig, Trainer

WIDTH = 256
CAPTION_DROPOUT = 0.1
FLOW_SHIFT = 3.0
GUIDANCE_SCALE = 4.0

EMOJI_TRANSFORMER = SanaConfig(
    num_layers=8,
    num_attention_heads=8,
    num_cross_attention_heads=4,
    cross_attention_head_dim=64,
    caption_channels=WIDTH,
    sample_size=4,
    qk_norm=True,
)


def emoji_text_encoder(vocabulary: int) -> Gemma2Model:
    """A Gemma-2 of 3 layers, with random weights."""
    config = Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        query_pre_attn_scalar=64,
        max_position_embeddings=MAX_TOKENS,
        sliding_window=MAX_TOKENS,
        attn_implementation="eager",
    )
    return Gemma2Model(config)


class CaptionedTransformer(nn.Module):
    """The transformer behind its text encoder: `FlowMatching` gives it token ids for captions."""

    def __init__(self, text_encoder: Gemma2Model, transformer: SanaTransformer) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.transformer = transformer

    def forward(self, latents: Tensor, timestep: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Velocity of latents (B, C, h, w) under captions given as token ids (B, L)."""
        caption = self.text_encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        velocity: Tensor = self.transformer(latents, timestep, caption, mask)
        return velocity

    def load_averages(self, folder: Path) -> None:
        """Take the weights that `save_pretrained` wrote."""
        self.text_encoder.load_state_dict(Gemma2Model.from_pretrained(folder / "text_encoder").state_dict())
        self.transformer.load_state_dict(SanaTransformer.from_pretrained(folder / "transformer").state_dict())

    def save_pretrained(self, folder: Path) -> None:
        """Write `transformer/` and `text_encoder/`."""
        self.text_encoder.save_pretrained(folder / "text_encoder")
        self.transformer.save_pretrained(folder / "transformer")


class EncodedScenes:
    """Batches of encoded scenes, as a pure function of the step: every epoch shuffles anew, captions in any language.

    A dropped caption is the empty one, so that the model learns what "no caption" means to its own text encoder.
    """

    def __init__(
        self,
        scenes: dict[str, Tensor],
        empty: Tensor,
        *,
        scaling_factor: float,
        batch_size: int,
        dropout: float = CAPTION_DROPOUT,
    ) -> None:
        self.latents = scenes["latents"].float() * scaling_factor
        self.tokens = scenes["tokens"].long()
        self.empty = empty.long()
        self.pad = int(empty[-1])
        self.order = EpochOrder(len(self.latents), batch_size)
        self.dropout = dropout

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        rng = random.Random(f"batch {step}")
        picked = self.order(step)
        languages = rng.choices(range(len(LANGUAGES)), [LANGUAGE_WEIGHTS[name] for name in LANGUAGES], k=len(picked))
        tokens = self.tokens[picked, languages]
        tokens[torch.tensor([rng.random() < self.dropout for _ in picked])] = self.empty
        mask = tokens != self.pad
        longest = int(mask.sum(1).max())
        return {
            "latents": self.latents[picked],
            "caption": tokens[:, :longest],
            "caption_mask": mask[:, :longest],
            "key": [str(index) for index in picked.tolist()],
        }


def main() -> None:
    """Train, or go on training; the result is the pipeline folder DIR/pipeline."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.train_transformer", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=3400)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches ahead")
    parser.add_argument("--start-from", type=Path, metavar="DIR", help="begin with this run's averaged weights")
    options = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.out / "tokenizer")
    autoencoder = DCAE.from_pretrained(options.out / "autoencoder")
    model = CaptionedTransformer(emoji_text_encoder(len(tokenizer)), SanaTransformer(EMOJI_TRANSFORMER))
    if options.start_from:
        model.load_averages(options.start_from / "transformer-run" / "model")
    model.to(options.device)
    batches = EncodedScenes(
        load_shards(options.out / "latents", shard_facts(autoencoder, tokenizer)),
        tokenize([""], tokenizer)[0],
        scaling_factor=autoencoder.config.scaling_factor,
        batch_size=options.batch_size,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    config = TrainConfig(
        run_dir=str(options.out / "transformer-run"),
        steps=options.steps,
        warmup_steps=min(200, options.steps // 10),
        decay_steps=options.steps * 3 // 10,
        final_lr_factor=0.02,
        ema_decay=0.998,
        precision="bf16",
        checkpoint_every=250,
        workers=options.workers,
        log_every=25,
    )
    # Captions are short: attention by plain matrix products trains a quarter faster on a CPU than the flash kernel.
    with sdpa_kernel(SDPBackend.MATH) if options.device == "cpu" else nullcontext():
        finished = Trainer.start_or_resume(model, FlowMatching(shift=FLOW_SHIFT), optimizer, batches, config).fit()
    if not finished:
        raise SystemExit("stopped: the same command goes on")
    assemble(options.out).save_pretrained(options.out / "pipeline")
    report = {"steps": options.steps, "batch_size": options.batch_size, "scenes": len(batches.latents)}
    report["caption_dropout"] = batches.dropout
    if options.start_from:
        earlier = json.loads((options.start_from / "transformer.json").read_text())
        report["steps"] += earlier["steps"]
    (options.out / "transformer.json").write_text(json.dumps(report) + "\n")


def assemble(out: Path) -> SanaPipeline:
    """The pipeline of a run's averaged weights, its tokenizer and its autoencoder."""
    averaged = out / "transformer-run" / "model"
    captions = CaptionEncoder(
        AutoTokenizer.from_pretrained(out / "tokenizer"),
        Gemma2Model.from_pretrained(averaged / "text_encoder").eval(),
        chi=False,
        max_tokens=MAX_TOKENS,
    )
    return SanaPipeline(
        captions,
        SanaTransformer.from_pretrained(averaged / "transformer"),
        DCAE.from_pretrained(out / "autoencoder"),
        facts=PipelineFacts(flow_shift=FLOW_SHIFT, guidance_scale=GUIDANCE_SCALE),
    )


if __name__ == "__main__":
    main()
