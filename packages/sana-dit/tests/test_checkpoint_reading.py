"""Where checkpoints lie, and files that cannot be read."""

import io
import json
import pickle
import random
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from sana_dit.checkpoint_reading import find_checkpoint, read_json, read_weights

CPU = torch.device("cpu")
NAME = "diffusion_pytorch_model"


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}" if name.endswith(".json") else b"")


def find(path, *, subfolder=None, dtype=None):
    files = find_checkpoint(path, subfolder=subfolder, revision=None, dtype=dtype)
    return [p.name for p in files.weights], files.folder


def test_a_file_is_itself(tmp_path):
    touch(tmp_path, "any.pth")
    assert find(tmp_path / "any.pth") == (["any.pth"], tmp_path)


def test_a_pipeline_has_its_transformer_in_a_subfolder(tmp_path):
    touch(tmp_path, "model_index.json", f"transformer/{NAME}.safetensors", "vae/" + NAME + ".safetensors")
    assert find(tmp_path) == ([f"{NAME}.safetensors"], tmp_path / "transformer")
    assert find(tmp_path, subfolder="vae/")[1] == tmp_path / "vae"


@pytest.mark.parametrize(("dtype", "found"), [(None, ""), (torch.float32, ""), (torch.bfloat16, ".bf16")])
def test_the_precision_asked_for_is_taken_where_there_is_one(tmp_path, dtype, found):
    touch(tmp_path, f"{NAME}.safetensors", f"{NAME}.bf16.safetensors")
    assert find(tmp_path, dtype=dtype)[0] == [f"{NAME}{found}.safetensors"]


def test_another_precision_is_better_than_none(tmp_path):
    touch(tmp_path, f"{NAME}.fp16.safetensors")
    assert find(tmp_path, dtype=torch.bfloat16)[0] == [f"{NAME}.fp16.safetensors"]


def test_an_index_lists_the_shards(tmp_path):
    touch(tmp_path, "a.safetensors", "b.safetensors", "stale.safetensors")
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}
    (tmp_path / f"{NAME}.safetensors.index.json").write_text(json.dumps(index))
    assert find(tmp_path)[0] == ["a.safetensors", "b.safetensors"]
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lists \['b.safetensors'\], which are not beside it"):
        find(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd"])
def test_an_index_cannot_reach_out_of_its_folder(tmp_path, name):
    (tmp_path / f"{NAME}.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ValueError, match="it must list files of its own folder"):
        find(tmp_path)


def test_the_only_file_of_a_folder_is_taken_whatever_its_name(tmp_path):
    touch(tmp_path, "checkpoints/Sana_1600M.pth", "sana.safetensors")
    assert find(tmp_path) == (["Sana_1600M.pth"], tmp_path)
    touch(tmp_path, "another.safetensors")
    with pytest.raises(ValueError, match=r"holds 2 files of weights, \['another.safetensors', 'checkpoints/Sana"):
        find(tmp_path)


def test_nothing_found_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no transformer in .*: expected {NAME}.safetensors"):
        find(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        find(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"\./runs/model is neither a file nor a folder"):
        find("./runs/model")


def test_a_hub_repository_is_found_in_the_cache_without_a_network(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--owner--name/snapshots" / ("0" * 40)
    touch(snapshot, "model_index.json", "transformer/config.json", f"transformer/{NAME}.safetensors")
    touch(snapshot.parent.parent, "refs/main")
    (snapshot.parent.parent / "refs/main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find("owner/name") == ([f"{NAME}.safetensors"], snapshot / "transformer")


def test_only_what_a_transformer_needs_is_asked_of_the_hub(tmp_path, monkeypatch):
    asked = []

    def download(repo, *, revision, allow_patterns):
        asked.extend(allow_patterns)
        touch(tmp_path, "model_index.json")
        touch(tmp_path, *(name for name in allow_patterns if name == f"transformer/{NAME}.bf16.safetensors"))
        return str(tmp_path)

    monkeypatch.setattr("sana_dit.hub_download.snapshot_download", download)
    assert find("owner/name", dtype=torch.bfloat16)[0] == [f"{NAME}.bf16.safetensors"]
    assert [pattern for pattern in asked if pattern.endswith("safetensors")] == [
        "*sana.safetensors",
        f"transformer/{NAME}.bf16.safetensors",
    ]


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "checkpoints/Sana.pth"])
def test_a_single_file_of_a_usual_name_is_found_on_the_hub(tmp_path, monkeypatch, name):
    def download(repo, *, revision, allow_patterns):
        touch(tmp_path, *filter_repo_objects([name, "unet/model.pth"], allow_patterns=allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("sana_dit.hub_download.snapshot_download", download)
    assert find("owner/name")[0] == [Path(name).name]
    assert not (tmp_path / "unet").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_device_gets_the_dtype_that_is_asked_for(tmp_path, suffix):
    path, state, moved = tmp_path / f"model{suffix}", {"x": torch.ones(2)}, []
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)

    class Moves(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            if isinstance(result, torch.Tensor) and result.is_meta:
                moved.append(result.dtype)
            return result

    with Moves():
        read_weights((path,), torch.device("meta"), torch.bfloat16)
    assert set(moved) == {torch.bfloat16}


def test_a_truncated_safetensors_file_is_named_with_a_remedy(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is truncated .*: download it again"):
        read_weights((path,), CPU)


def test_a_pointer_of_git_lfs_is_recognised(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="it is a Git LFS pointer, run git lfs pull"):
        read_weights((path,), CPU)


class Payload:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "ran")


def test_a_pth_that_holds_code_is_refused_and_nothing_runs(tmp_path):
    torch.save({"state_dict": {"x": torch.zeros(1)}, "extra": Payload(tmp_path / "ran")}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model.pth holds more than tensors, and reading that could run"):
        read_weights((tmp_path / "model.pth",), CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_a_truncated_pth_is_named_with_a_remedy(tmp_path, keep):
    path = tmp_path / "model.pth"
    torch.save({"x": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model.pth (is truncated|holds more than tensors)"):
        read_weights((path,), CPU)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"x": 1}}, torch.zeros(1)])
def test_a_pth_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="has no state_dict of named floating-point tensors"):
        read_weights((tmp_path / "model.pth",), CPU)


def test_an_old_pickle_is_read_too(tmp_path):
    torch.save({"x": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_weights((tmp_path / "old.pth",), CPU)["x"].tolist() == [1, 1]
    assert pickle.HIGHEST_PROTOCOL >= 2


@pytest.mark.parametrize("numpy_core", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_a_checkpoint_of_nvlabs_training_is_read(tmp_path, numpy_core):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    states = {"numpy": np.random.get_state(), "python": random.getstate(), "torch": torch.get_rng_state()}
    rest = {"optimizer": optimizer.state_dict(), "epoch": 1, "step": 3, "rng_state": states}
    written = io.BytesIO()  # not a zip, so that the name below can have another length
    torch.save({"state_dict": {"x": torch.ones(2)}, **rest}, written, _use_new_zipfile_serialization=False)
    module = type(np.random.get_state()[1]).__reduce__(np.empty(0))[0].__module__.encode()
    assert module in written.getvalue()
    (tmp_path / "a.pth").write_bytes(written.getvalue().replace(module, numpy_core))
    assert read_weights((tmp_path / "a.pth",), CPU)["x"].tolist() == [1, 1]


def test_averaged_weights_are_left_out_with_a_warning(tmp_path):
    torch.save({"state_dict": {"x": torch.ones(1)}, "state_dict_ema": {"x": torch.zeros(1)}}, tmp_path / "a.pth")
    with pytest.warns(UserWarning, match=r"a.pth also holds averaged weights, state_dict_ema: read are those of"):
        assert read_weights((tmp_path / "a.pth",), CPU)["x"].tolist() == [1]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wraps_a_model_leaves_no_trace_in_the_names(tmp_path, prefix):
    torch.save({f"{prefix}a.weight": torch.ones(1), f"{prefix}b": torch.ones(1)}, tmp_path / "a.pth")
    assert list(read_weights((tmp_path / "a.pth",), CPU)) == ["a.weight", "b"]
    torch.save({f"{prefix}a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    assert list(read_weights((tmp_path / "a.pth",), CPU)) == [f"{prefix}a", "b"]


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[1]", "holds a list, not an object")])
def test_a_damaged_json_file_is_named(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"config.json {message}"):
        read_json(tmp_path / "config.json")
