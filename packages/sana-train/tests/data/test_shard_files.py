import json
import math

import pytest
import torch
from safetensors.torch import save_file

from sana_train.data.shard_files import OpenShard, read_header, write_shard


def tensors(samples=3):
    return {
        "latents": torch.arange(samples * 24.0).view(samples, 2, 3, 4),
        "caption": torch.ones(samples, 5, 6, dtype=torch.bfloat16),
        "caption_mask": torch.ones(samples, 5, dtype=torch.bool),
    }


def write(path, keys=("a", "b", "c"), scaling_factor=0.41407, **changes):
    write_shard(path, **(tensors() | changes), keys=keys, scaling_factor=scaling_factor)
    return path


def test_a_sample_is_read_as_it_was_written(tmp_path):
    path = write(tmp_path / "new" / "0.safetensors")
    header = read_header(path)
    assert (header.samples, header.latent_shape, header.size) == (3, (2, 3, 4), (3, 4))
    assert (header.caption_shape, header.scaling_factor) == ((5, 6), 0.41407)
    shard = OpenShard(path)
    assert shard.keys == ["a", "b", "c"]
    for name, tensor in tensors().items():
        assert torch.equal(shard.sample(1)[name], tensor[1:2])
    assert [file.name for file in path.parent.iterdir()] == ["0.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": torch.zeros(3, 2, 3)}, r"latents \(3, 2, 3\)"),
        ({"latents": torch.zeros(2, 2, 3, 4)}, "must agree in samples"),
        ({"caption_mask": torch.ones(3, 4)}, "must agree in samples, and caption and mask in tokens"),
        ({"latents": torch.full((3, 2, 3, 4), math.nan)}, r"3 of 3 latents are not finite \(\['a', 'b', 'c'\]\)"),
        ({"keys": ("a", "b")}, "2 keys for 3 samples"),
        ({"keys": (1, 2, 3)}, "one name for each"),
        ({"scaling_factor": -1.0}, "scaling_factor -1.0"),
    ],
)
def test_what_makes_no_shard_is_refused_and_leaves_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "0.safetensors", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_reader_does_not_look_for_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        write(tmp_path / "shard.bin")


def test_a_damaged_file_is_named(tmp_path):
    path = write(tmp_path / "0.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"0\.safetensors is not a safetensors file, or is damaged"):
        read_header(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "keys None in its metadata"),
        ({"keys": "[", "scaling_factor": "1"}, r"keys '\[' in its metadata"),
        ({"keys": '"abc"', "scaling_factor": "1"}, "keys 'abc' for 3 samples"),
        ({"keys": json.dumps(["a"] * 3)}, "scaling_factor None"),
        ({"keys": json.dumps(["a"] * 3), "scaling_factor": "nan"}, "scaling_factor nan"),
    ],
)
def test_metadata_of_others_is_checked(tmp_path, metadata, message):
    save_file(tensors(), tmp_path / "0.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=message):
        read_header(tmp_path / "0.safetensors")


def test_missing_tensors_are_listed(tmp_path):
    save_file({"latents": torch.zeros(1, 2, 3, 4)}, tmp_path / "0.safetensors")
    with pytest.raises(ValueError, match="has no caption, caption_mask; a shard has latents, caption, caption_mask"):
        read_header(tmp_path / "0.safetensors")
