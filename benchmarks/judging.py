"""Time of judging N images beside the released procedure, on the same weights: `python -m benchmarks.judging`.

The released procedure asks for the answer with `generate`, one image per call, both images of every pair of a knockout
tournament: 2(N - k) calls until k images are left. Nothing is timed unless both find the same winner and the logits of
the first word agree within 1e-4. The model is random and small, with the tiles of the released one: how often two
stages find the winner of one is measured too, but random weights say little about it. FLOPs are those of the released
sizes, counted on the meta device without any weights.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, Qwen2Config, SiglipVisionConfig, SiglipVisionModel

from benchmarks.machine import describe, write_result
from benchmarks.timing import interleaved
from sana_judge import NVILA_LITE_2B, CascadeJudge, VILAConfig, VILAJudge, VILAModel
from sana_judge.image_reading import read_image
from sana_judge.vila.tiling import count_tiles, cut_tiles

TOKENIZER = Path(__file__).parents[1] / "packages" / "sana-judge" / "tests" / "fixtures" / "nvila-tiny" / "llm"
PROMPT = "a photo of a red dog left of two blue cats"
QUESTION_TOKENS = 100  # of the released tokenizer, for the FLOPs
ANSWER_TOKENS = 2  # the word and the end of the message
QWEN2: dict[str, Any] = {
    "vocab_size": 151651,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
SMALL = VILAConfig(
    vision=SiglipVisionConfig(
        hidden_size=64, intermediate_size=192, num_hidden_layers=4, num_attention_heads=4, image_size=448, patch_size=28
    ),
    language=Qwen2Config(**QWEN2),
    vision_layers=3,
)

DESCRIPTION = (
    f"random; SigLIP {SMALL.vision.num_hidden_layers} layers of {SMALL.vision.hidden_size}, "
    f"Qwen2 {SMALL.language.num_hidden_layers} layers of {SMALL.language.hidden_size}, float32"
)
CPU = torch.device("cpu")


def main() -> None:
    """Measures both sizes of images and writes or prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--images", type=int, default=16, help="N, a power of two")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {"benchmark": "judging against the released procedure", **describe(CPU), "model": DESCRIPTION}
    result |= {"images": args.images, "kept": 1, "repeats": args.repeats}
    with torch.inference_mode():
        judge = VILAJudge(build(SMALL), AutoTokenizer.from_pretrained(TOKENIZER), rule="released", progress=False)
        released = ReleasedProcedure(judge)
        result["results"] = [measure(judge, released, side, args.images, args.repeats) for side in (512, 1024)]
        result["tflop_of_the_released_sizes"] = [count_flops(side) for side in (512, 1024)]
    print(result)
    print(write_result(result, "judging", args.out))


def build(config: VILAConfig) -> VILAModel:
    """Returns a random model whose answers differ from image to image."""
    torch.manual_seed(0)
    model = VILAModel(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed_tokens" not in name:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


class ReleasedProcedure:
    """A tournament of pairs over the whole vision tower and `generate`, one image per call."""

    def __init__(self, judge: VILAJudge):
        """Takes the judge whose weights it uses."""
        self.judge = judge
        self.tower = SiglipVisionModel(judge.model.config.vision).eval()
        getattr(self.tower, "vision_model", self.tower).load_state_dict(
            judge.model.vision_tower.state_dict(), strict=False
        )
        self.calls = 0

    def winner(self, images: Sequence[Image.Image]) -> int:
        """Returns the number of the image that wins all its pairs."""
        left = list(range(len(images)))
        while len(left) > 1:
            left = [self.better(images, *pair) for pair in zip(left[::2], left[1::2], strict=True)]
        return left[0]

    def better(self, images: Sequence[Image.Image], first: int, second: int) -> int:
        """Returns the one of two images that the released comparison prefers."""
        a, b = (self.answer(images[index]) for index in (first, second))
        yes, no = self.judge.questions.yes, self.judge.questions.no
        said = [bool(logits.argmax() == yes) for logits in (a, b)]
        if said[0] != said[1]:
            return first if said[0] else second
        wins = a[yes] > b[yes] if said[0] else a[no] < b[no]
        return first if wins else second

    def answer(self, image: Image.Image) -> Tensor:
        """Returns the logits of the first word that is generated."""
        model, writer = self.judge.model, self.judge.questions
        self.calls += 1
        tiles = cut_tiles(read_image(image), model.config, max_tiles=self.judge.max_tiles)
        states = self.tower(tiles / 127.5 - 1, output_hidden_states=True).hidden_states[-2]
        features, question = model.mm_projector(states), writer.write(PROMPT)
        parts = [model.embed(question.head), model.embed_image(features, writer.newline), model.embed(question.tail)]
        sequence = torch.cat(parts)[None]
        output = model.llm.generate(
            inputs_embeds=sequence,
            attention_mask=torch.ones(sequence.shape[:2], dtype=torch.long),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
        logits: Tensor = output.logits[0][0].float()
        return logits


def measure(judge: VILAJudge, released: ReleasedProcedure, side: int, count: int, repeats: int) -> dict[str, Any]:
    """Returns times, calls and agreement for images of one size, after the answers have been compared."""
    images = [draw(side, seed) for seed in range(count)]
    difference = check(judge, released, images)
    contenders = {"ours": lambda: judge(PROMPT, images), "released": lambda: released.winner(images)}
    times = interleaved(contenders, repeats=repeats, device=CPU)
    tiles = judge.count_tiles(images[0])
    return {
        "side": side,
        "tiles_per_image": tiles,
        "forwards_per_image_ours": 1,
        "forwards_per_image_released": 2 * (count - 1) / count,
        "calls_ours": -(-count // max(judge.batch_tiles // tiles, 1)),
        "calls_released": 2 * (count - 1),
        "seconds_ours": times["ours"].median,
        "seconds_released": times["released"].median,
        "speedup": times["released"].over(times["ours"]),
        "largest_difference_of_logits": difference,
        "two_stages": compare_cascade(judge, released, images, repeats),
    }


def check(judge: VILAJudge, released: ReleasedProcedure, images: Sequence[Image.Image]) -> float:
    """Stops the benchmark if the answers differ; returns by how much the logits do."""
    scores, answers = judge.score(PROMPT, images), [released.answer(image) for image in images]
    yes, no = judge.questions.yes, judge.questions.no
    pairs = zip(scores, answers, strict=True)
    difference = max(abs(s.logit_yes - a[yes].item()) + abs(s.logit_no - a[no].item()) for s, a in pairs)
    released.calls = 0
    values, winner = judge(PROMPT, images), released.winner(images)
    if difference > 1e-4 or values.index(max(values)) != winner or released.calls != 2 * (len(images) - 1):
        raise SystemExit(f"the answers differ (logits by {difference:.1e}); nothing was timed")
    return difference


def compare_cascade(
    judge: VILAJudge, released: ReleasedProcedure, images: Sequence[Image.Image], repeats: int
) -> dict[str, float]:
    """Returns how often two stages find the winner of one, over groups of 8 of the images, and at what cost."""
    cascade = CascadeJudge(judge, share=0.25)
    groups = [images[start : start + 8] for start in range(0, len(images) - 7, 4)]
    firsts = [[values.index(max(values)) for values in (cascade(PROMPT, g), judge(PROMPT, g))] for g in groups]
    contenders = {"two": lambda: cascade(PROMPT, images), "released": lambda: released.winner(images)}
    times = interleaved(contenders, repeats=repeats, device=CPU)
    return {
        "share": cascade.share,
        "groups_of_8": len(groups),
        "top_1_agreement": statistics.mean(first == second for first, second in firsts),
        "seconds": times["two"].median,
        "speedup": times["released"].over(times["two"]),
    }


def count_flops(side: int) -> dict[str, float]:
    """Returns the work per image at the released sizes, in TFLOP (two per multiplication and addition)."""
    tiles = count_tiles(side, side, NVILA_LITE_2B, max_tiles=NVILA_LITE_2B.max_tiles)
    ours = forward_flops(NVILA_LITE_2B, tiles)
    whole = forward_flops(replace(NVILA_LITE_2B, vision_layers=NVILA_LITE_2B.vision.num_hidden_layers), tiles)
    return {
        "side": side,
        "tiles_per_image": tiles,
        "ours": ours,
        "one_tile": forward_flops(NVILA_LITE_2B, 1),
        "released_for_2048_keep_4": whole * 2 * (2048 - 4) / 2048,
    }


def forward_flops(config: VILAConfig, tiles: int) -> float:
    """Returns the TFLOP of one image's forward."""
    with torch.device("meta"):
        model, pixels = VILAModel(config), torch.empty(tiles, 3, config.tile_size, config.tile_size)
        length = tiles * (config.tile_tokens + 2) - 1 + QUESTION_TOKENS
        sequence = torch.empty(1, length, config.language.hidden_size)
    with FlopCounterMode(display=False) as counter:
        model.encode_tiles(pixels)
        # transformers looks into masks, which have no values here.
        states = model.llm.model(inputs_embeds=sequence, attention_mask={"full_attention": None}).last_hidden_state
        model.logits(states[:, -1])
    return counter.get_total_flops() / 1e12


def draw(side: int, seed: int) -> Image.Image:
    """Returns a picture of soft random colours."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(cells.numpy()).resize((side, side))


if __name__ == "__main__":
    main()
