import json
import random

import pytest
from PIL import Image

from recipes.emoji.captions import LANGUAGES, caption
from recipes.emoji.contents import TASKS
from recipes.emoji.detector import true_detections
from recipes.emoji.geneval_emoji import Settings, evaluate, evaluation_prompts, real_renders, sampling_of
from recipes.emoji.run_folder import digest
from recipes.emoji.scenes import SIZE, arrange, render
from recipes.emoji.sprites import DrawnSprites, SpriteSheet
from sana import SanaPipeline

SETTINGS = Settings(model="a model", detector="a detector", prompts_per_task=2, images_per_prompt=2)


class PerfectModel:
    """Draws what a prompt says and knows what it drew; `stop_after` prompts it is interrupted."""

    def __init__(self, language="english", *, stop_after=None):
        self.contents = {caption(content, language): content for content in evaluation_prompts(24)}
        self.sprites = SpriteSheet(DrawnSprites())
        self.asked = []
        self.stop_after = stop_after

    def sample(self, prompt, seeds):
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((prompt, list(seeds)))
        self.drawn = [arrange(self.contents[prompt], self.sprites, random.Random(seed)) for seed in seeds]
        return [Image.fromarray(render(scene, self.sprites)) for scene in self.drawn]

    def detect(self, images):
        assert len(images) == len(self.drawn)
        return [true_detections(scene) for scene in self.drawn]


def run(out, model, settings=SETTINGS):
    return evaluate(model.sample, model.detect, out, settings, progress=False)


def results(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_perfect_model_scores_one_in_every_task_and_language(tmp_path, language):
    settings = Settings(model="m", detector="d", prompts_per_task=3, images_per_prompt=1, language=language)
    table = run(tmp_path, PerfectModel(language), settings)
    assert table.tasks == dict.fromkeys(TASKS, 1.0)
    assert table.overall == 1.0


def test_a_blind_detector_scores_zero(tmp_path):
    table = evaluate(PerfectModel().sample, lambda images: [[] for _ in images], tmp_path, SETTINGS, progress=False)
    assert table.overall == 0.0


def test_every_prompt_leaves_a_line_with_seeds_and_verdicts(tmp_path):
    run(tmp_path, PerfectModel())
    lines = results(tmp_path)
    assert [line["number"] for line in lines] == list(range(12))
    assert [seed for line in lines for seed in line["seeds"]] == list(range(24))
    assert all(len(line["verdicts"]) == len(line["detections"]) == 2 for line in lines)


def test_images_lie_in_genevals_own_layout(tmp_path):
    run(tmp_path, PerfectModel())
    folder = tmp_path / "images" / "00003"
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["00000.png", "00001.png"]
    assert json.loads((folder / "metadata.jsonl").read_text()) == results(tmp_path)[3]["metadata"]


def test_the_table_states_its_settings(tmp_path):
    table = run(tmp_path, PerfectModel())
    written = json.loads((tmp_path / "table.json").read_text())
    assert written["benchmark"] == "GenEval-emoji"
    assert written["settings"]["model"] == "a model"
    assert written["settings"]["seeds"] == "0 to 23"
    assert written["tasks"] == table.tasks


def test_the_table_says_what_the_model_makes_of_settings_that_are_none(tmp_path):
    sampling = sampling_of(SanaPipeline.embedded(device="cpu"), steps=None, guidance_scale=3.0)
    assert sampling == {"sampler": "Flow-DPM-Solver (shift 3.0)", "steps": 20, "guidance_scale": 3.0}
    model = PerfectModel()
    evaluate(model.sample, model.detect, tmp_path, SETTINGS, sampling=sampling, progress=False)
    stated = json.loads((tmp_path / "table.json").read_text())["settings"]
    assert stated.items() >= sampling.items()


def test_a_stopped_evaluation_goes_on_after_the_last_finished_prompt(tmp_path):
    first, second = PerfectModel(stop_after=5), PerfectModel()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", first)
    with (tmp_path / "stopped" / "results.jsonl").open("a") as file:
        file.write('{"number": 5, "meta')  # what a kill in the middle of a line leaves
    run(tmp_path / "stopped", second)
    whole = PerfectModel()
    run(tmp_path / "whole", whole)
    assert first.asked + second.asked == whole.asked
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


def test_results_of_other_settings_are_never_mixed(tmp_path):
    run(tmp_path, PerfectModel())
    with pytest.raises(ValueError, match="'a model' -> 'another'"):
        run(tmp_path, PerfectModel(), Settings(model="another", detector="a detector", prompts_per_task=2))


def test_the_sheet_shows_every_image_of_the_first_prompts(tmp_path):
    run(tmp_path, PerfectModel())
    with Image.open(tmp_path / "sheet.png") as sheet:
        # 6 tasks of 2 prompts of 2 images, 4 in a row.
        assert sheet.size == (4 * (SIZE + 12), 6 * (SIZE + 52))


def test_real_renders_depend_on_prompt_and_seed():
    sample = real_renders(SpriteSheet(DrawnSprites()), "chinese")
    prompt = caption(evaluation_prompts(1)[0], "chinese")
    one, two = sample(prompt, [0, 1])
    assert one.tobytes() == sample(prompt, [0])[0].tobytes()
    assert one.tobytes() != two.tobytes()


def test_a_digest_names_the_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="safetensors"):
        digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"one")
    one = digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert digest(tmp_path) != one
