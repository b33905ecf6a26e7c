"""Folders that change whole or not at all."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_dit.checkpoint_writing import replacing_files, write_shards


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_new_folder_appears_with_everything_in_it(tmp_path):
    with replacing_files(tmp_path / "deep" / "model") as folder:
        (folder / "config.json").write_text("{}")
        assert not (tmp_path / "deep" / "model").exists()
    assert names(tmp_path / "deep" / "model") == ["config.json"]
    assert names(tmp_path / "deep") == ["model"]


def test_files_can_be_read_by_whom_the_folder_lets_in(tmp_path):
    with replacing_files(tmp_path / "model") as folder:
        save_file({"x": torch.zeros(1)}, folder / "x.safetensors")
    mode = (tmp_path / "model" / "x.safetensors").stat().st_mode
    assert mode & 0o666 == (tmp_path / "model").stat().st_mode & 0o666


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("old")

    def save():
        with replacing_files(tmp_path / "model") as folder:
            (folder / "config.json").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save()
    assert (tmp_path / "model" / "config.json").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_weights_of_an_earlier_save_go_and_other_files_stay(tmp_path):
    old = ["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model.safetensors.index.json"]
    for name in [*old, "sana.safetensors", "README.md", "model.pth"]:
        (tmp_path / name).write_text("old")
    with replacing_files(tmp_path) as folder:
        (folder / "diffusion_pytorch_model.safetensors").write_text("new")
    assert names(tmp_path) == ["README.md", "diffusion_pytorch_model.safetensors", "model.pth"]


def test_large_weights_are_split_and_listed(tmp_path):
    weights = {name: torch.full((100,), float(i)) for i, name in enumerate("abc")}
    write_shards(tmp_path, weights, max_shard_size=800)
    assert names(tmp_path) == [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
    ]
    loaded = {k: w for path in tmp_path.glob("*.safetensors") for k, w in load_file(path).items()}
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_views_are_written_as_what_they_show(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    write_shards(tmp_path, {"x": whole.T}, max_shard_size="5GB")
    assert torch.equal(load_file(tmp_path / "diffusion_pytorch_model.safetensors")["x"], whole.T)
