import json
import random

import pytest
from PIL import Image

from recipes.emoji.best_of_n import cheapest, report
from recipes.emoji.best_of_n_plots import plot_experiment
from recipes.emoji.best_of_n_records import DetectorJudge, Record, Settings, draw, prompts
from recipes.emoji.best_of_n_replay import Flops, Strategy, replay, strategies
from recipes.emoji.contents import TASKS
from recipes.emoji.detector import true_detections
from recipes.emoji.scenes import arrange
from recipes.emoji.sprites import DrawnSprites, SpriteSheet
from sana_scale import Halving, Threshold

SETTINGS = Settings(model="m", judge="j", detector="d", prompts_per_task=1, images=6, batch_size=4)
FLOPS = Flops(denoise=10.0, decode=2.0, judge=1.0)


class Painter:
    """Draws the seed, brighter at each look; `stop_after` batches it is interrupted."""

    def __init__(self, *, stop_after=None):
        self.batches = []
        self.stop_after = stop_after

    def __call__(self, prompt, seeds):
        return [Image.new("L", (2, 2), seed) for seed in seeds]

    def previewing(self, prompt, seeds, *, at, keep):
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append((prompt, list(seeds)))
        for look, _ in enumerate(at):
            assert list(keep([Image.new("L", (2, 2), seed + 100 * (look + 1)) for seed in seeds])) == [
                *range(len(seeds))
            ]
        return list(zip(seeds, self(prompt, seeds), strict=True))


def brightness(prompt, images):
    return [image.getpixel((0, 0)) for image in images]


@pytest.fixture
def truth():
    """The detector's verdicts, where the detector finds what was asked for in pictures of seed 3 and nothing else."""
    contents = {prompt: content for content, prompt in prompts(1)}
    sprites = SpriteSheet(DrawnSprites())

    def judge(prompt, images):
        shown = true_detections(arrange(contents[prompt], sprites, random.Random(0)))
        return DetectorJudge(lambda seen: [shown if image.getpixel((0, 0)) == 3 else [] for image in seen])(
            prompt, images
        )

    return judge


def test_every_image_is_judged_half_way_and_at_the_end(truth, tmp_path):
    painter = Painter()
    records = draw(painter, brightness, truth, tmp_path, SETTINGS, progress=False)
    assert [record.task for record in records] == list(TASKS)
    assert records[0].early == (tuple(range(100, 106)), tuple(range(200, 206)))
    assert records[0].scores == tuple(range(6))
    assert records[0].correct == (False, False, False, True, False, False)
    assert [len(seeds) for _, seeds in painter.batches] == [4, 2] * 6


def test_drawing_goes_on_after_the_last_finished_batch(truth, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        draw(Painter(stop_after=3), brightness, truth, tmp_path, SETTINGS, progress=False)
    with (tmp_path / "images.jsonl").open("a") as file:
        file.write('{"number": 1, "ear')  # what a kill leaves
    painter = Painter()
    records = draw(painter, brightness, truth, tmp_path, SETTINGS, progress=False)
    assert len(painter.batches) == 12 - 3
    assert all(record.scores == tuple(range(6)) for record in records)


def test_other_settings_need_another_folder(truth, tmp_path):
    draw(Painter(), brightness, truth, tmp_path, SETTINGS, progress=False)
    other = Settings(model="m", judge="other", detector="d", prompts_per_task=1, images=6)
    with pytest.raises(ValueError, match="judge 'j' -> 'other'"):
        draw(Painter(), brightness, truth, tmp_path, other, progress=False)


def record(task="counting", images=64):
    """The judge sees everything, right from the first look: seed k is worth k, and correct in the upper half."""
    scores = tuple(seed / images for seed in range(images))
    correct = tuple(score >= 0.5 for score in scores)
    return Record(task=task, prompt=task, early=(scores, scores), scores=scores, correct=correct)


def test_plain_best_of_n_costs_every_image():
    outcome = replay([record()], Strategy(name="plain"), FLOPS, looks=(0.25, 0.5))
    assert (outcome.score, outcome.images, outcome.flops) == (1.0, 64, 64 * 13)


def test_a_stopped_run_costs_what_it_drew():
    strategy = Strategy(name="stop", batch_size=4, options={"stop": Threshold(0.5)})
    outcome = replay([record()], strategy, FLOPS, looks=(0.25, 0.5))
    assert (outcome.score, outcome.images, outcome.flops) == (1.0, 36, 36 * 13)  # seed 32 is in the ninth batch


def test_a_pruned_run_costs_its_looks_too():
    strategy = Strategy(name="halve", options={"prune": Halving(at=(0.25,))})
    outcome = replay([record()], strategy, FLOPS, looks=(0.25, 0.5))
    denoised = 16 + 24 + 24 * 0.25  # the pilot, the better half of 48, a quarter of each other one
    assert (outcome.images, outcome.flops) == (40, denoised * 10 + (64 + 40) * 3)


def test_every_window_of_seeds_is_played():
    outcome = replay([record()], Strategy(name="plain", n=32), FLOPS, looks=(0.25, 0.5))
    assert outcome.score == 0.5


def test_the_report_names_the_cheapest_that_is_as_good(tmp_path):
    settings = Settings(model="m", judge="j", detector="d", prompts_per_task=1, images=64)
    measured = report([record("counting"), record("colors")], settings, FLOPS)
    assert measured["curve"]["k"] == [1, 2, 4, 8, 16, 32, 64]
    assert set(measured["tasks"]) == {"counting", "colors"}
    assert measured["judge_agrees_with_truth"] == 63 / 64  # a half itself is correct and no yes
    assert measured["rank_correlation_of_looks"] == {"0.25": 1.0, "0.5": 1.0}
    best = measured["cheapest_at_equal_score"]
    assert best["flops"] < measured["strategies"][0]["flops"]
    plot_experiment(json.loads(json.dumps(measured)), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 1000


def test_what_scores_less_is_not_the_cheapest():
    outcomes = [replay([record()], way, FLOPS, looks=(0.25, 0.5)) for way in strategies(64)]
    worse = replay([record()], Strategy(name="one", n=1), FLOPS, looks=(0.25, 0.5))
    assert cheapest([*outcomes, worse]).name != "one"
