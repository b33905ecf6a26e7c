import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sana.commands import app
from sana.resolution import resolution_bins
from sana_ae import DCAE
from sana_dit import CaptionEncoder
from sana_train import AspectRatioBuckets, LatentShards

TRAIN = """
[train]
run_dir = "run"
steps = 2
warmup_steps = 1
[model]
in_channels = 8
out_channels = 8
sample_size = 2
caption_channels = 16
num_layers = 1
num_attention_heads = 2
attention_head_dim = 8
num_cross_attention_heads = 2
cross_attention_head_dim = 8
[optimizer]
kind = "adamw"
lr = 1e-3
[objective]
caption_dropout = 0.0
[data]
shards = "out"
batch_size = 2
"""


@pytest.mark.parametrize("cells", [16, 32, 64, 128])
def test_pictures_are_drawn_at_sizes_that_were_trained_at(cells):
    trained = AspectRatioBuckets(32 * cells).sizes
    bins = resolution_bins(cells)
    assert set(bins) <= set(trained)
    assert len(bins) == (33 if cells < 64 else 40)  # diffusers draws at fewer sizes up to 1024


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def images(tmp_path):
    """A tar with six pictures, one of them damaged, and a folder beside it."""
    folder = tmp_path / "images"
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for number in range(6):
            content = jpeg(number)
            files = {
                "jpg": content if number != 4 else content[: len(content) // 2],
                "txt": f"picture {number}".encode(),
            }
            for suffix, body in files.items():
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
    (folder / "more").mkdir()
    (folder / "more" / "a.jpg").write_bytes(jpeg(9))
    (folder / "more" / "a.txt").write_text("一张图片", encoding="utf-8")
    return folder


def jpeg(seed, side=80):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def encode(run, images, out, folder, *more):
    return run(
        *(
            "encode-dataset",
            images,
            out,
            "--model",
            folder,
            "--max-skipped",
            0.2,
            "--max-tokens",
            32,
            "--shard-size",
            4,
        ),
        *("--device", "cpu", "--no-progress", *more),
    )


def test_a_folder_of_tars_and_images_becomes_shards_that_train(run, images, small_folder, tmp_path, monkeypatch):
    result = encode(run, images, tmp_path / "out", small_folder)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'out'}: 6 images and 6 captions in 2 shards\n"
    assert "skipped 1 image damaged or cut short; see" in result.stderr
    skipped = json.loads((tmp_path / "out" / "skipped.jsonl").read_text())
    assert skipped["key"] == "00000.tar/4"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(TRAIN)
    trained = run("train", "run.toml", "--device", "cpu", "--no-progress")
    assert trained.exit_code == 0, trained.output


def test_shards_hold_the_checkpoints_own_latents_and_captions(run, images, small_folder, tmp_path):
    assert encode(run, images, tmp_path / "out", small_folder).exit_code == 0
    batch = LatentShards(tmp_path / "out", batch_size=6)(0)
    slot = batch["key"].index("more/a.jpg")
    picture = Image.open(images / "more" / "a.jpg").resize((64, 64), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None] / 127.5 - 1
    autoencoder = DCAE.from_pretrained(small_folder, subfolder="vae").eval()
    with torch.no_grad():
        latent = autoencoder.encode(pixels).half().float() * autoencoder.config.scaling_factor
    error = (batch["latents"][slot] - latent[0]).norm() / latent.norm()
    assert error < 1e-3  # half a unit in the last place of fp16 is 5e-4
    captions = CaptionEncoder.from_pretrained(small_folder, max_tokens=32)("一张图片")
    assert torch.equal(batch["caption"][slot], captions.embeddings[0].bfloat16())
    assert torch.equal(batch["caption_mask"][slot], captions.mask[0].bool())


@pytest.mark.filterwarnings("always:.* when manifest.parquet was written")
def test_a_manifest_is_written_once_and_encoded_from(run, images, small_folder, tmp_path):
    indexed = run("index-dataset", images, "--no-progress", "--json")
    assert json.loads(indexed.stdout) == {"images": 7, "captions": 7, "skipped": {}}
    first = encode(run, images / "manifest.parquet", tmp_path / "out", small_folder, "--json")
    facts = json.loads(first.stdout)
    assert facts == {
        "samples": 6,
        "captions": 6,
        "shards": 2,
        "skipped": {"image damaged or cut short": 1},
        "left_out": 0,
    }
    again = encode(run, images, tmp_path / "out", small_folder, "--json", "--verify")
    assert json.loads(again.stdout) == facts
    (images / "more" / "b.jpg").write_bytes(jpeg(10))
    warned = encode(run, images, tmp_path / "out", small_folder).stderr
    assert "and had 2 when manifest.parquet was written" in warned


def test_images_that_are_new_or_mended_are_encoded_when_asked_for(run, images, small_folder, tmp_path):
    out = tmp_path / "out"
    assert encode(run, images, out, small_folder).exit_code == 0
    (images / "more" / "b.jpg").write_bytes(jpeg(10))
    (images / "more" / "b.txt").write_text("one more")
    refused = encode(run, images, out, small_folder)
    assert (refused.exit_code, LatentShards(out, batch_size=6).samples) == (2, 6)
    assert "has 3 images and tars and had 2 when" in refused.stderr
    assert "encode them with --retry" in refused.stderr
    taken = encode(run, images, out, small_folder, "--retry", "--json")
    assert json.loads(taken.stdout)["samples"] == LatentShards(out, batch_size=7).samples == 7


def test_shards_of_one_folder_are_not_taken_for_those_of_another(run, images, small_folder, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    assert encode(run, images, out, small_folder).exit_code == 0
    shutil.copytree(images, other)
    refused = encode(run, other, out, small_folder)
    assert refused.exit_code == 2
    assert f"was made of {images}, not of {other}: give another OUT" in refused.stderr


def test_images_left_out_for_their_size_are_counted_and_not_bad(run, images, small_folder, tmp_path):
    (images / "more" / "large.png").write_bytes(jpeg(11, side=128))
    (images / "more" / "large.txt").write_text("large")
    result = encode(run, images, tmp_path / "out", small_folder, "--side", "128", "--max-upscale", "1", "--square")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("7 images were left out for their score or size, as asked for\n")
    assert "skipped" not in result.stderr


def test_parts_make_up_the_whole(run, images, small_folder, tmp_path):
    for part in ("0/2", "1/2"):
        assert encode(run, images, tmp_path / "out", small_folder, "--part", part).exit_code == 0
    assert LatentShards(tmp_path / "out", batch_size=6).samples == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--max-skipped", "0.01"],
            "1 of 7 samples had to be skipped (1 image damaged or cut short), and 1.00% may be",
        ),
        (["--part", "2/2"], "--part is '2/2'; give the number of this part and the number of parts"),
        (["--side", "100"], "side is 100 and multiple 32"),
        (["--min-score", "25"], "none of the 7 images"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_cannot_be_encoded_is_said_in_one_line(run, images, small_folder, tmp_path, more, message):
    result = encode(run, images, tmp_path / "out", small_folder, *more)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") <= 2


def test_captions_that_are_cut_are_counted(run, images, small_folder, tmp_path):
    result = encode(run, images, tmp_path / "out", small_folder, "--max-tokens", "8")
    assert result.exit_code == 0, result.output
    assert "cut 6 captions to 8 tokens" in result.stderr
    assert LatentShards(tmp_path / "out", batch_size=6).caption_shape == (8, 16)


def test_a_folder_that_holds_nothing_is_said(run, small_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in (("empty", "holds no image that can be used"), ("gone", "there is no folder")):
        result = encode(run, tmp_path / source, tmp_path / "out", small_folder)
        assert result.exit_code == 2
        assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_stops_a_run_is_listed_and_the_list_is_named(run, images, small_folder, tmp_path):
    for name in ("b", "c"):
        (images / "more" / f"{name}.jpg").write_bytes(b"no image")
    result = encode(run, images, tmp_path / "out", small_folder, "--max-skipped", 0.1)
    assert result.exit_code == 2
    listed = tmp_path / "out" / "not_indexed.jsonl"
    assert f"All of them are listed in {listed}" in result.stderr
    assert len(listed.read_text().splitlines()) == 2
    for name in ("b", "c"):
        (images / "more" / f"{name}.jpg").unlink()
    result = encode(run, images, tmp_path / "out", small_folder, "--max-skipped", 0)
    assert f"All of them are listed in {tmp_path / 'out' / 'skipped.jsonl'}" in result.stderr
    assert json.loads((tmp_path / "out" / "skipped.jsonl").read_text())["key"] == "00000.tar/4"
