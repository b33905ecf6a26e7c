"""Finding and reading files."""

import json
import pickle

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from sana_ae.checkpoint_reading import CheckpointFiles, find_checkpoint, read_json, read_weights

CPU = torch.device("cpu")


@pytest.fixture
def write_weights():
    def write(path, value=1.0):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": torch.full((2,), value)}, path)
        return path

    return write


def find(path, *, subfolder=None, dtype=None):
    return find_checkpoint(path, subfolder=subfolder, revision=None, dtype=dtype)


def read(path):
    return read_weights(CheckpointFiles(weights=(path,), folder=path.parent), CPU)


def test_a_file_is_taken_as_it_is(tmp_path, write_weights):
    path = write_weights(tmp_path / "any.safetensors")
    assert find(path) == CheckpointFiles(weights=(path,), folder=tmp_path)


def test_in_a_pipeline_the_autoencoder_is_the_vae(tmp_path, write_weights):
    (tmp_path / "model_index.json").write_text("{}")
    path = write_weights(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert find(tmp_path) == CheckpointFiles(weights=(path,), folder=tmp_path / "vae")


def test_a_subfolder_can_be_named(tmp_path, write_weights):
    path = write_weights(tmp_path / "old" / "diffusion_pytorch_model.safetensors")
    assert find(str(tmp_path), subfolder="old").weights == (path,)


def test_the_file_of_the_wanted_precision_comes_first(tmp_path, write_weights):
    plain = write_weights(tmp_path / "diffusion_pytorch_model.safetensors")
    half = write_weights(tmp_path / "diffusion_pytorch_model.bf16.safetensors")
    assert find(tmp_path).weights == (plain,)
    assert find(tmp_path, dtype=torch.bfloat16).weights == (half,)


def test_shards_are_joined(tmp_path):
    names = {"a": "one.safetensors", "b": "two.safetensors"}
    for key, name in names.items():
        save_file({key: torch.ones(1)}, tmp_path / name)
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert sorted(read_weights(find(tmp_path), CPU)) == ["a", "b"]


def test_shards_that_are_missing_are_named(tmp_path):
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(FileNotFoundError, match=r"lists \['gone.safetensors'\], which are not beside it"):
        find(tmp_path)


@pytest.mark.parametrize("weight_map", [{"a": "../elsewhere.safetensors"}, {}], ids=["outside", "empty"])
def test_an_index_must_stay_in_its_folder(tmp_path, weight_map):
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="it must list files of its own folder"):
        find(tmp_path)


def test_a_folder_with_one_file_of_another_name_is_enough(tmp_path):
    torch.save({"x": torch.ones(1)}, tmp_path / "model.pt")
    assert find(tmp_path).weights == (tmp_path / "model.pt",)


def test_several_files_of_other_names_are_ambiguous(tmp_path, write_weights):
    write_weights(tmp_path / "a.safetensors")
    write_weights(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"2 files of weights, \['a.safetensors', 'b.safetensors'\]: give the path"):
        find(tmp_path)


def test_an_empty_folder_holds_no_autoencoder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no autoencoder in"):
        find(tmp_path)


@pytest.mark.parametrize("name", ["./gone", "gone", "/gone/further/down", "../up", "weights/gone.safetensors"])
def test_what_is_neither_here_nor_a_hub_name_is_refused(name):
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        find(name)


def test_a_hub_repository_is_downloaded_in_parts(tmp_path, write_weights, monkeypatch):
    write_weights(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "model_index.json").write_text("{}")
    asked = []

    def download(repo, *, revision, allow_patterns):
        asked.append((repo, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("sana_ae.hub_download.snapshot_download", download)
    files = find_checkpoint("owner/pipe", subfolder=None, revision="v1", dtype=None)
    assert files.folder == tmp_path / "vae"
    assert asked[-1] == ("owner/pipe", "v1", ["vae/diffusion_pytorch_model.safetensors"])
    assert not any(pattern.endswith("*.safetensors") for _, _, patterns in asked for pattern in patterns)


def test_of_a_hub_repository_of_another_kind_no_weights_are_downloaded(tmp_path, monkeypatch):
    files = ["unet/model.safetensors", "other.safetensors", "deep/model.pth", "model.safetensors"]
    asked = []

    def download(repo, *, revision, allow_patterns):
        asked.extend(filter_repo_objects(files, allow_patterns=allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("sana_ae.hub_download.snapshot_download", download)
    monkeypatch.setattr("sana_ae.hub_download.HfApi.model_info", lambda *arguments, **options: None)
    with pytest.raises(FileNotFoundError, match="download one of another name and give its path"):
        find("owner/unet")
    assert asked == ["model.safetensors"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_device_gets_the_dtype_that_is_asked_for_and_counts_stay_whole(tmp_path, suffix):
    path, state = tmp_path / f"model{suffix}", {"x": torch.ones(2), "batches": torch.ones((), dtype=torch.int64)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    moved = []

    class Moves(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            if isinstance(result, torch.Tensor) and result.is_meta:
                moved.append(result.dtype)
            return result

    with Moves():
        read_weights(CheckpointFiles(weights=(path,), folder=tmp_path), torch.device("meta"), torch.bfloat16)
    assert set(moved) == {torch.bfloat16, torch.int64}


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}], ids=["plain", "wrapped"])
def test_a_pth_holds_a_state_dict(tmp_path, wrap):
    torch.save(wrap({"x": torch.ones(2)}), tmp_path / "model.pth")
    assert torch.equal(read(tmp_path / "model.pth")["x"], torch.ones(2))


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_code_in_a_pth_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match=r"bomb.pth holds more than tensors.*export its state_dict to safetensors"):
        read(tmp_path / "bomb.pth")
    assert not (tmp_path / "exploded").exists()


def test_plain_pickles_with_code_do_not_run_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(ValueError, match=r"bomb\.pt"):
        read(tmp_path / "bomb.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file_is_named(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    state = {"x": torch.randn(1000)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match=rf"model{suffix} is truncated or not a .*: download it again"):
        read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_pointer_of_git_lfs_is_recognised(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=f"model{suffix} .*git lfs pull|model{suffix} holds more than tensors"):
        read(path)


def test_a_pth_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="has no state_dict of tensors"):
        read(tmp_path / "model.pth")


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "holds a list, not an object")])
def test_json_that_is_not_an_object_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "config.json")
