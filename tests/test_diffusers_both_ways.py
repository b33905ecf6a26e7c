"""diffusers both ways: what one saves the other loads, in folders and on the Hub, with adapters, in every precision."""

import os
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from typer.testing import CliRunner

from sana import SanaPipeline
from sana.commands import app
from sana_ae import DCAE
from sana_dit import SanaTransformer, fuse_lora
from tests.hub.server import HubServer

SMALL = {"height": 64, "width": 64, "use_resolution_binning": False}


@pytest.fixture(scope="module")
def theirs(small_folder):
    return quiet(diffusers.SanaPipeline.from_pretrained(small_folder))


@pytest.fixture(scope="module")
def lora_folder(small_folder, tmp_path_factory):
    """An adapter that diffusers saved, strong enough to show."""
    torch.manual_seed(0)
    transformer = diffusers.SanaTransformer2DModel.from_pretrained(small_folder, subfolder="transformer")
    targets = ["to_q", "to_k", "to_v", "to_out.0", "conv_inverted", "conv_point"]
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False))
    metadata = transformer.peft_config["default"].to_dict()
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    state = get_peft_model_state_dict(transformer)
    diffusers.SanaPipeline.save_lora_weights(folder, state, transformer_lora_adapter_metadata=metadata)
    return folder


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, **settings):
    """A picture of ours, or of diffusers' (which takes a generator), as integers."""
    if isinstance(pipeline, SanaPipeline):
        return levels(pipeline("a dog", [1], **settings, progress=False)[0])
    generator = torch.Generator("cpu").manual_seed(1)
    settings["num_inference_steps"] = settings.pop("steps")
    return levels(pipeline("a dog", generator=generator, **settings).images[0])


def levels(image):
    return np.asarray(image).astype(int)


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_diffusers_draws_the_same_with_a_sprint_pipeline_that_we_saved(sprint_folder, tmp_path):
    ours = SanaPipeline.from_pretrained(sprint_folder, device="cpu")
    ours.save_pretrained(tmp_path)
    theirs = quiet(diffusers.SanaSprintPipeline.from_pretrained(tmp_path))
    # Float32 rounds differently in the two; one level of 255 is where a value lies on the edge between two.
    assert np.abs(draw(ours, steps=2) - draw(theirs, steps=2)).max() <= 1


def test_every_part_of_a_saved_pipeline_is_one_of_diffusers(small_folder, tmp_path):
    SanaPipeline.from_pretrained(small_folder, device="cpu").save_pretrained(tmp_path)
    for cls, part in ((diffusers.SanaTransformer2DModel, "transformer"), (diffusers.AutoencoderDC, "vae")):
        ours = cls.from_pretrained(tmp_path, subfolder=part)
        theirs = cls.from_pretrained(small_folder, subfolder=part)
        assert same(ours, theirs)


@pytest.mark.parametrize(("variant", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("max_shard_size", ["10GB", "20KB"])
def test_a_variant_that_diffusers_saved_is_read_in_its_precision(
    small_folder, tmp_path, variant, dtype, max_shard_size
):
    narrow = diffusers.SanaPipeline.from_pretrained(small_folder).to(dtype)
    narrow.save_pretrained(tmp_path, variant=variant, max_shard_size=max_shard_size)
    many = max_shard_size == "20KB"
    assert (len(list((tmp_path / "transformer").glob(f"*{variant}*.safetensors"))) > 1) is many
    ours = SanaPipeline.from_pretrained(tmp_path, device="cpu", dtype=dtype)
    ours.save_pretrained(tmp_path / "ours")
    again = diffusers.SanaTransformer2DModel.from_pretrained(tmp_path / "ours/transformer").to(dtype)
    assert same(again, narrow.transformer)
    assert next(ours.transformer.parameters()).dtype == dtype


def test_of_two_precisions_in_a_folder_the_one_asked_for_is_read(small_folder, theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    marked = diffusers.SanaTransformer2DModel.from_pretrained(small_folder / "transformer").half()
    with torch.no_grad():
        marked.proj_out.bias.fill_(0.5)
    marked.save_pretrained(tmp_path / "transformer", variant="fp16")
    for dtype, expected in ((torch.float16, True), (None, False)):
        loaded = SanaTransformer.from_pretrained(tmp_path, dtype=dtype)
        assert bool((loaded.final.proj.bias == 0.5).all()) is expected


def test_single_parts_that_diffusers_saved_are_loaded(theirs, tmp_path):
    theirs.transformer.save_pretrained(tmp_path / "transformer", max_shard_size="20KB")
    theirs.vae.save_pretrained(tmp_path / "vae", max_shard_size="20KB")
    latents, timestep = torch.randn(1, 8, 2, 2), torch.tensor([500.0])
    caption, image = torch.randn(1, 4, 16), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        velocity = SanaTransformer.from_pretrained(tmp_path / "transformer")(latents, timestep, caption)
        code = DCAE.from_pretrained(tmp_path / "vae").encode(image)
        expected = theirs.transformer(latents, caption, timestep, return_dict=False)[0]
        torch.testing.assert_close(velocity, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
        expected = theirs.vae.encode(image, return_dict=False)[0]
    torch.testing.assert_close(code, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.fixture(scope="module")
def adapted(small_folder, lora_folder):
    """What diffusers draws with the adapter, at half its strength, and without."""
    pipeline = quiet(diffusers.SanaPipeline.from_pretrained(small_folder))
    without = draw(pipeline, steps=3, **SMALL)
    pipeline.load_lora_weights(lora_folder, adapter_name="style")
    pipeline.set_adapters(["style"], [0.5])
    return draw(pipeline, steps=3, **SMALL), without


def test_a_picture_with_an_adapter_is_that_of_diffusers(small_folder, lora_folder, adapted):
    with_adapter, without = adapted
    assert np.abs(with_adapter - without).max() > 10
    ours = SanaPipeline.from_pretrained(small_folder, device="cpu")
    assert np.abs(draw(ours, steps=3) - without).max() <= 1
    ours.load_lora(lora_folder, scale=0.5)
    assert np.abs(draw(ours, steps=3) - with_adapter).max() <= 1
    fuse_lora(ours.transformer)
    assert np.abs(draw(ours, steps=3) - with_adapter).max() <= 1


def test_diffusers_draws_the_same_with_a_pipeline_saved_with_its_adapter(small_folder, lora_folder, adapted, tmp_path):
    ours = SanaPipeline.from_pretrained(small_folder, device="cpu")
    ours.load_lora(lora_folder, scale=0.5)
    fuse_lora(ours.transformer)
    ours.save_pretrained(tmp_path)
    theirs = quiet(diffusers.SanaPipeline.from_pretrained(tmp_path))
    assert np.abs(draw(theirs, steps=3, **SMALL) - adapted[0]).max() <= 1


def generate(model, out, *arguments):
    fixed = ("generate", "a dog", "--seed", 1, "--model", model, "--steps", 3, "--out", out, "--no-progress")
    return CliRunner().invoke(app, [str(argument) for argument in (*fixed, "--device", "cpu", *arguments)])


def test_the_command_takes_adapters_and_records_them(small_folder, lora_folder, adapted, tmp_path):
    done = generate(small_folder, tmp_path / "a.png", "--lora", f"{lora_folder}:0.5")
    assert done.exit_code == 0, done.output
    image = Image.open(tmp_path / "a.png")
    assert np.abs(levels(image) - adapted[0]).max() <= 1
    assert f'"loras": {{"{lora_folder}": 0.5}}' in image.text["sana"]
    file = lora_folder / "pytorch_lora_weights.safetensors"
    generate(small_folder, tmp_path / "b.png", "--lora", lora_folder, "--lora", f"{file}:-0.5")
    assert np.abs(levels(Image.open(tmp_path / "b.png")) - adapted[0]).max() <= 1  # 1 - 0.5


def test_the_command_says_what_is_wrong_with_an_adapter(small_folder, diffusers_folder, tmp_path):
    done = generate(small_folder, tmp_path / "a.png", "--lora", tmp_path / "nowhere.safetensors")
    assert done.exit_code == 2
    assert "nowhere.safetensors is neither a file nor a folder" in done.stderr
    model = diffusers_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    done = generate(small_folder, tmp_path / "a.png", "--lora", model)
    assert done.exit_code == 2
    assert "does not fit this transformer" in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_an_adapter_given_twice_is_refused(small_folder, lora_folder, tmp_path):
    done = generate(small_folder, tmp_path / "a.png", "--lora", f"{lora_folder}:40", "--lora", lora_folder)
    assert done.exit_code == 2
    assert f"--lora names {lora_folder} with the scales 40 and 1: give it once" in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_every_model_goes_to_the_hub_and_back_here_and_in_diffusers(small_folder, lora_folder, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        variables = os.environ | hub.environment(tmp_path / "home") | {"HF_HUB_DISABLE_XET": "1"}
        script = Path(__file__).parent / "hub" / "round_trip.py"
        done = subprocess.run(
            [sys.executable, script, small_folder, lora_folder],
            env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        names = {name: repository.private for (_, name), repository in hub.repositories.items()}
        assert names == dict.fromkeys([f"tester/{n}" for n in ("pipeline", "lora", "transformer", "autoencoder")], True)
        load = "from sana_dit import SanaTransformer; SanaTransformer.from_pretrained('tester/transformer')"
        stranger = variables | {"HF_TOKEN": "hf_other", "HF_HOME": str(tmp_path / "stranger")}
        refused = subprocess.run([sys.executable, "-c", load], env=stranger, capture_output=True, text=True)
        assert refused.returncode == 1
        assert "PermissionError: the Hub does not take this token for tester/transformer" in refused.stderr


ON_A_GPU = """
import torch
from sana import SanaPipeline
pipe = SanaPipeline.from_pretrained("tester/two", device="meta")  # as on a GPU, and without weights
assert next(pipe.transformer.parameters()).dtype == torch.float16
"""


def test_of_two_precisions_on_the_hub_only_the_half_is_fetched_for_a_gpu(theirs, small_folder, tmp_path):
    theirs.save_pretrained(tmp_path / "two")
    half = diffusers.SanaTransformer2DModel.from_pretrained(small_folder / "transformer").half()
    half.save_pretrained(tmp_path / "two" / "transformer", variant="fp16")
    with HubServer(tmp_path / "hub") as hub:
        variables = os.environ | hub.environment(tmp_path / "home") | {"HF_HUB_DISABLE_XET": "1"}
        upload = "from huggingface_hub import HfApi as A; A().create_repo('tester/two'); "
        upload += "A().upload_folder(repo_id='tester/two', folder_path='two')"
        for script, offline in ((upload, ""), (ON_A_GPU, ""), (ON_A_GPU, "1")):  # the last out of the cache
            done = subprocess.run(
                [sys.executable, "-c", script], env=variables | {"HF_HUB_OFFLINE": offline}, cwd=tmp_path,
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    fetched = {path.name for path in (tmp_path / "home").rglob("transformer/*.safetensors")}
    assert fetched == {"diffusion_pytorch_model.fp16.safetensors"}
