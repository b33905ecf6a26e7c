import json
import shutil
from fnmatch import fnmatch

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_judge import VILAJudge
from sana_judge.checkpoint_reading import find_checkpoint, fingerprint, read_weights

WANTED = {"config.json", "README.md", "llm/model-00001-of-00002.safetensors", "llm/merges.txt", "judge.json"}
UNWANTED = {"modeling_vila.py", "llm/pytorch_model.bin", "optimizer.pt"}


@pytest.mark.parametrize("part", ["llm", "vision_tower", "mm_projector"])
def test_a_missing_folder_is_named(checkpoint, part):
    shutil.rmtree(checkpoint / part)
    with pytest.raises(FileNotFoundError, match=part):
        VILAJudge.from_pretrained(checkpoint)


def test_a_missing_tokenizer_is_named(checkpoint):
    for name in ("tokenizer.json", "vocab.json"):
        (checkpoint / "llm" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer \(llm/tokenizer.json\)"):
        VILAJudge.from_pretrained(checkpoint)


def test_a_damaged_tokenizer_is_named(checkpoint):
    (checkpoint / "llm" / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"the tokenizer in .*llm is missing or damaged"):
        VILAJudge.from_pretrained(checkpoint)


def test_neither_a_folder_nor_a_repository_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="owner/name"):
        find_checkpoint(tmp_path / "nowhere", revision=None)
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        find_checkpoint(tmp_path, revision=None)


def test_a_repository_is_downloaded_without_its_code(nvila_tiny, monkeypatch):
    asked = []

    def download(repo, *, revision, allow_patterns):
        asked.append((repo, revision, allow_patterns))
        return str(nvila_tiny)

    monkeypatch.setattr("sana_judge.hub_download.snapshot_download", download)
    assert find_checkpoint("owner/judge", revision="v1") == nvila_tiny
    [(repo, revision, patterns)] = asked
    assert (repo, revision) == ("owner/judge", "v1")
    matched = {name for name in WANTED | UNWANTED if any(fnmatch(name, pattern) for pattern in patterns)}
    assert matched == WANTED


def test_shards_are_read_through_their_index(checkpoint):
    whole = load_file(checkpoint / "llm" / "model.safetensors")
    names = sorted(whole)
    weight_map = {name: f"model-{1 + (name > names[9])}.safetensors" for name in names}
    for shard in set(weight_map.values()):
        save_file({name: whole[name] for name in names if weight_map[name] == shard}, checkpoint / "llm" / shard)
    index = checkpoint / "llm" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    (checkpoint / "llm" / "model.safetensors").unlink()
    read = read_weights(checkpoint)
    assert all(torch.equal(read[f"llm.{name}"], tensor) for name, tensor in whole.items())
    (checkpoint / "llm" / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-2\.safetensors"):
        read_weights(checkpoint)


def test_an_index_reaches_no_other_folder(checkpoint):
    index = checkpoint / "llm" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../mm_projector/model.safetensors"}}))
    with pytest.raises(ValueError, match="files of its own folder"):
        read_weights(checkpoint)


def test_a_damaged_file_is_named_with_its_remedy(checkpoint):
    path = checkpoint / "llm" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"llm/model\.safetensors is truncated.*download it again"):
        read_weights(checkpoint)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="run git lfs pull"):
        read_weights(checkpoint)


def test_a_fingerprint_follows_weights_and_configurations_and_no_other_file(checkpoint, edit_json):
    before = fingerprint(checkpoint)
    (checkpoint / "README.md").write_text("other")
    edit_json(checkpoint / "judge.json", calibration={"scale": 2.0})
    assert fingerprint(checkpoint) == before
    edit_json(checkpoint / "llm" / "generation_config.json", max_length=7)
    changed = fingerprint(checkpoint)
    save_file({"layers.1.weight": torch.zeros(1)}, checkpoint / "mm_projector" / "model.safetensors")
    assert len({before, changed, fingerprint(checkpoint)}) == 3
