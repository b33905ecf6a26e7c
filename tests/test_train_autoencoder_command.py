import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sana.commands import app
from sana.training.autoencoder_run import make_autoencoder_trainer
from sana.training.autoencoder_settings import read_autoencoder_run
from sana_ae import DCAE
from sana_ae.training import HIGH_RESOLUTION_LATENT, LOW_RESOLUTION_FULL, LOW_RESOLUTION_REFINEMENT, InceptionV3
from sana_ae.training.inception import pytorch_fid_name

RECIPES = Path(__file__).parents[1] / "recipes" / "dc_ae_f32c32"

RUN = """
[train]
run_dir = "full"
steps = 4
checkpoint_every = 2
log_every = 1
validate_every = 2
sample_every = 4
plots = false

[autoencoder]
preset = "DC_AE_LITE_F32C32"
latent_channels = 8
encoder_block_types = ["ResBlock", "ResBlock", "ResBlock", "ResBlock", "ResBlock", "ResBlock"]
encoder_block_out_channels = [8, 8, 8, 16, 16, 16]
decoder_block_out_channels = [8, 8, 8, 16, 16, 16]
encoder_layers_per_block = [0, 1, 1, 1, 1, 1]
decoder_layers_per_block = [0, 1, 1, 1, 1, 1]
encoder_qkv_multiscales = [[], [], [], [], [], []]
decoder_qkv_multiscales = [[], [], [], [], [], []]

[phase]
preset = "LOW_RESOLUTION_FULL"
resolution = 32

[data]
images = "images"
batch_size = 4

[validation]
images = "images"
count = 4
samples = 2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (10, 40, 48, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path


def train(*arguments):
    return CliRunner().invoke(app, ["train-autoencoder", "run.toml", "--device", "cpu", "--no-progress", *arguments])


def metrics(run):
    return [json.loads(line) for line in Path(f"{run}/metrics.jsonl").read_text().splitlines()]


def refinement(*arguments):
    """The third phase of the model that the first one made, whose shape it takes over."""
    text = RUN.partition("[autoencoder]")
    rest = text[2].partition("[phase]")
    Path("run.toml").write_text(f'{text[0]}[autoencoder]\ninit = "full/model"\n[phase]{rest[2]}')
    changes = ("phase.preset=LOW_RESOLUTION_REFINEMENT", "train.run_dir=refined", "phase.adversarial_warmup=2")
    return train(*(f"--set={change}" for change in changes), *arguments)


def test_a_phase_ends_in_a_model_whose_latents_have_a_measured_scale(folder):
    result = train()
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("full/model\nlatents times ")
    model = DCAE.from_pretrained("full/model")
    images = [torch.from_numpy(np.array(Image.open(path))[:32, :32]) for path in sorted(Path("images").iterdir())]
    with torch.no_grad():
        latents = model.encode(torch.stack(images).permute(0, 3, 1, 2) / 127.5 - 1)
    # The crops that it was measured on are the middle of the images, resized: noise in, noise out, some percent apart.
    assert 0.7 < float(latents.std()) * model.config.scaling_factor < 1.4
    assert [line["step"] for line in metrics("full") if "val/psnr" in line] == [2, 4]
    with Image.open("full/samples/step-00000004/reconstructions.png") as sheet:
        assert sheet.size == (64, 64)


def test_rfid_is_logged_where_there_is_an_inception(folder):
    weights = {pytorch_fid_name(name): tensor for name, tensor in InceptionV3().state_dict().items()}
    torch.save(weights, "inception.pth")
    result = train("--set=validation.inception=inception.pth", "--set=train.validate_every=4")
    assert result.exit_code == 0, result.output
    [measured] = [line for line in metrics("full") if "val/psnr" in line]
    assert 0 < measured["val/rfid"] < float("inf")
    Path("inception.pth").unlink()  # 90 MB


def test_a_killed_run_is_resumed_to_the_same_bits(folder):
    assert train("--set", "train.run_dir=straight").exit_code == 0
    assert train().exit_code == 0
    newest = folder / "full" / "checkpoints" / "step-00000004"
    newest.rename(newest.with_name("lost"))
    again = train("--resume")
    assert again.exit_code == 0, again.output
    ours, theirs = (DCAE.from_pretrained(f"{name}/model").state_dict() for name in ("full", "straight"))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_the_next_phase_moves_the_head_of_the_decoder_alone(folder):
    assert train().exit_code == 0
    result = refinement()
    assert result.exit_code == 0, result.output
    before, after = (DCAE.from_pretrained(f"{name}/model") for name in ("full", "refined"))
    moved = {name for name, weight in after.state_dict().items() if not torch.equal(weight, before.state_dict()[name])}
    heads = ("decoder.up_blocks.1.", "decoder.norm_out.", "decoder.conv_out.")
    assert moved == {name for name, _ in after.named_parameters() if name.startswith(heads)}
    assert after.config == before.config


def test_a_run_is_not_resumed_in_another_phase(folder):
    assert train().exit_code == 0
    again = train("--resume", "--set", "phase.perceptual_weight=0.5")
    assert again.exit_code == 2
    assert "was started otherwise (phase" in again.output


def test_activations_can_be_recomputed(folder):
    assert train().exit_code == 0
    result = train("--set", "train.activation_checkpointing=true", "--set", "train.run_dir=recomputed")
    assert result.exit_code == 0, result.output
    losses = [[line.get("loss") for line in metrics(run)] for run in ("full", "recomputed")]
    assert losses[0] == losses[1]


def test_recomputed_are_blocks_and_not_whole_stages(folder):
    run = read_autoencoder_run("run.toml", ["train.activation_checkpointing=true"])
    trainer = make_autoencoder_trainer(run, device=torch.device("cpu"))
    stages = [*trainer.model.autoencoder.encoder.down_blocks, *trainer.model.autoencoder.decoder.up_blocks]
    assert all("forward" not in vars(stage) for stage in stages)
    assert all("forward" in vars(block) for stage in stages for block in stage.children())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("phase.preset=MIDDLE", "[phase] preset is 'MIDDLE'; it must be one of LOW_RESOLUTION_FULL"),
        ("phase.resolution=40", "this autoencoder takes multiples of 32"),
        ("autoencoder.init=full/model", "[autoencoder] has init and preset"),
        ("data.images=none", "there is no folder none"),
        ("data.batch_size=11", "10 usable images and batch_size is 11"),
        ("train.validate_every=-1", "[train] validate_every is -1"),
        ("perception.vgg16=none.pth", "[perception] lacks heads"),
        ("validation.inception=none.pth", "there is no file none.pth: download pt_inception-2015-12-05-6726825d.pth"),
        ("validation.inception=run.toml", "run.toml holds more than tensors"),
        ("validation.inception=1", "[validation] inception is 1; it must be a string in quotes"),
        ("objective.shift=3.0", "has a section [objective]"),
    ],
)
def test_bad_settings_are_refused_in_one_line(folder, change, message):
    result = train("--set", change)
    assert result.exit_code == 2
    assert message in result.output
    assert not Path("full").exists()


def test_rfid_of_one_image_is_refused(folder):
    result = train("--set=validation.inception=inception.pth", "--set=validation.count=1")
    assert result.exit_code == 2
    assert "[validation] count is 1 and inception inception.pth: rFID needs at least 2 images" in result.output


def test_the_recipes_are_the_three_phases():
    runs = [read_autoencoder_run(path) for path in sorted(RECIPES.glob("*.toml"))]
    assert [run.phase for run in runs] == [LOW_RESOLUTION_FULL, HIGH_RESOLUTION_LATENT, LOW_RESOLUTION_REFINEMENT]
    assert [run.autoencoder.init for run in runs[1:]] == [f"{run.train.run_dir}/model" for run in runs[:-1]]


def test_files_of_a_measure_that_are_not_there_are_said_with_their_addresses(folder):
    result = train("--set=perception.vgg16=none.pth", "--set=perception.heads=none.pth")
    assert result.exit_code == 2
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in result.stderr
    assert "weights/v0.1/vgg.pth), or leave [perception] out: MS-SSIM needs no files" in result.stderr
