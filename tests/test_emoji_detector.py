import random

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from recipes.emoji.contents import MIXTURE, Content, Group
from recipes.emoji.detector import check, detection_loss, true_detections, validate, validation_scenes
from recipes.emoji.detector_network import CELL, GRID, Detector, DetectorNetwork, iou
from recipes.emoji.detector_scenes import (
    NO_COLOR,
    NO_OBJECT,
    DetectorBatches,
    cell_targets,
    training_picture,
    wear,
)
from recipes.emoji.scenes import SIZE, SceneObject, arrange, render
from recipes.emoji.sprites import DrawnSprites, SpriteSheet
from recipes.emoji.vocabulary import COLORS, THINGS
from sana_judge import Detection
from sana_train import TrainConfig, Trainer


@pytest.fixture(scope="module")
def sprites():
    return SpriteSheet(DrawnSprites())


@pytest.fixture(scope="module")
def scene(sprites):
    content = Content(MIXTURE, (Group("apple", 2, "red"), Group("cat")), "left of")
    return arrange(content, sprites, random.Random(0))


@pytest.fixture
def trainer(sprites, tmp_path):
    def build(steps, folder="run"):
        torch.manual_seed(0)
        model = DetectorNetwork((8, 16, 32))
        config = TrainConfig(run_dir=str(tmp_path / folder), steps=steps, checkpoint_every=2, progress=False)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        return Trainer.start_or_resume(model, detection_loss, optimizer, DetectorBatches(sprites, batch_size=8), config)

    return build


class Cells(torch.nn.Module):
    """A network that answers what it was told, whatever it is shown."""

    def __init__(self, objects):
        super().__init__()
        classes, colors, boxes = (torch.from_numpy(target)[None] for target in cell_targets(objects))
        self.classes = 9.0 * torch.nn.functional.one_hot(classes, NO_OBJECT + 1).permute(0, 3, 1, 2)
        self.colors = torch.nn.functional.one_hot(colors.clamp(min=0), len(COLORS)).permute(0, 3, 1, 2)
        self.boxes = boxes

    def forward(self, images):
        return self.classes, self.colors, self.boxes


def test_the_network_is_small():
    assert sum(parameter.numel() for parameter in DetectorNetwork().parameters()) < 2_000_000


def test_every_cell_answers_class_colour_and_box():
    classes, colors, boxes = DetectorNetwork()(torch.zeros(2, 3, SIZE, SIZE))
    assert classes.shape == (2, len(THINGS) + 1, GRID, GRID)
    assert colors.shape == (2, len(COLORS), GRID, GRID)
    assert boxes.shape == (2, 4, GRID, GRID)


def test_decoding_the_targets_gives_the_scene_back(scene):
    (found,) = Detector(Cells(scene.objects))([Image.new("RGB", (SIZE, SIZE))])
    assert len(found) == len(scene.objects)
    for item in scene.objects:
        (seen,) = [seen for seen in found if iou(seen.box, item.box) > 0.5]
        assert seen.name == item.name
        # The targets hold float32 fractions of a cell of 16: exact to 2^-20 pixels.
        assert seen.box == pytest.approx(item.box, abs=1e-5)
        if item.color:
            assert seen.color == item.color


@pytest.mark.parametrize("x", range(0, 17, 2))
def test_every_object_has_a_cell_that_answers_for_it(x):
    item = SceneObject(name="cat", color=None, box=(30 + x, 40, 80 + x, 90))
    classes, colors, _ = cell_targets((item,))
    assert 1 <= (classes != NO_OBJECT).sum() <= 4
    assert (colors == NO_COLOR).all()


def test_what_is_probably_nothing_is_not_reported(scene):
    cells = Cells(scene.objects)
    cells.classes[0, NO_OBJECT] += 12  # "nothing" now leads everywhere: at most exp(9 - 12) of its weight
    (found,) = Detector(cells)([Image.new("RGB", (SIZE, SIZE))])
    assert found == []


def test_images_of_another_size_are_an_error():
    with pytest.raises(ValueError, match="128x128"):
        Detector(DetectorNetwork())([Image.new("RGB", (64, 64))])


def test_batches_are_a_pure_function_of_the_step(sprites):
    one, two = (DetectorBatches(SpriteSheet(DrawnSprites()), batch_size=4)(3) for _ in range(2))
    for name in ("images", "classes", "colors", "boxes"):
        assert torch.equal(one[name], two[name])
    assert not torch.equal(one["images"], DetectorBatches(sprites, batch_size=4)(4)["images"])


def test_training_pictures_hold_up_to_eight_objects_that_do_not_overlap(sprites):
    for seed in range(200):
        picture, objects = training_picture(random.Random(seed), sprites)
        assert picture.shape == (SIZE, SIZE, 3)
        assert len(objects) <= 8
        for number, one in enumerate(objects):
            assert all(iou(one.box, two.box) == 0 for two in objects[:number])


def test_training_pictures_hold_chimeras_that_are_nothing(sprites):
    pictures = [training_picture(random.Random(seed), sprites) for seed in range(200)]
    empty = [picture for picture, objects in pictures if not objects]
    assert empty
    for picture in empty:
        # Means of 8x8 pixels: the strongest noise, 10, leaves 10 / 8 of itself in them; a shape of any colour far more.
        means = picture.reshape(16, 8, 16, 8, 3).mean(axis=(1, 3))
        assert means.std(axis=(0, 1)).max() > 5


def test_wear_keeps_the_picture_recognisable(scene, sprites):
    picture = render(scene, sprites)
    for seed in range(50):
        worn = wear(picture, random.Random(seed))
        assert worn.dtype == np.uint8
        assert not np.array_equal(worn, picture)
        assert np.corrcoef(worn.ravel(), picture.ravel())[0, 1] > 0.7


def test_perfect_detections_pass_every_check(scene, sprites):
    other = validation_scenes(sprites, rounds=1)[-1]
    assert all(check(true_detections(scene), scene, other).values())


@pytest.mark.parametrize("change", [lambda seen: seen[1:], lambda seen: [*seen, seen[0]]], ids=["missing", "too many"])
def test_a_wrong_count_fails_every_check_that_counts(scene, change):
    result = check(change(true_detections(scene)), scene, scene)
    assert not any(result[name] for name in ("counts", "classes", "verdicts", "positions", "exact"))


def test_a_wrong_colour_fails_colours_and_verdict_only(scene):
    seen = [
        Detection(name=item.name, score=1.0, box=item.box, color="blue" if item.color else None)
        for item in scene.objects
    ]
    result = check(seen, scene, scene)
    assert result["classes"]
    assert not result["colors"]
    assert not result["exact"]
    assert not result["verdicts"]


def test_validation_counts_every_scene(sprites):
    scenes = validation_scenes(sprites, rounds=2)
    shares = validate(Detector(DetectorNetwork()), scenes, [Image.fromarray(render(s, sprites)) for s in scenes])
    assert set(shares) == {"counts", "classes", "colors", "positions", "exact", "verdicts"}
    assert all(0 <= share <= 1 for share in shares.values())


def test_the_loss_falls(trainer):
    training = trainer(steps=20)
    losses = [training.train_step().loss for _ in range(20)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_stopped_training_ends_in_the_same_bits(trainer, tmp_path):
    trainer(6).fit()
    stopped = trainer(6, "stopped")
    for _ in range(3):
        stopped.train_step()
        if stopped.step == 2:
            stopped.save()
    trainer(6, "stopped").fit()
    ours, theirs = (load_file(tmp_path / run / "model" / "detector.safetensors") for run in ("run", "stopped"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_saved_network_answers_the_same(tmp_path, scene, sprites):
    network = DetectorNetwork().eval()
    network.save_pretrained(tmp_path)
    image = Image.fromarray(render(scene, sprites))
    assert Detector.from_pretrained(tmp_path)([image]) == Detector(network)([image])


def test_positions_are_centred_on_their_cells():
    item = SceneObject(name="cat", color="red", box=(CELL * 2, CELL * 2, CELL * 3, CELL * 3))
    classes, colors, boxes = cell_targets((item,))
    assert classes[2, 2] == list(THINGS).index("cat")
    assert colors[2, 2] == list(COLORS).index("red")
    assert boxes[:, 2, 2].tolist() == [-0.5, -0.5, 0.5, 0.5]
