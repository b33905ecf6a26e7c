"""Writing a checkpoint whole or not at all."""

import os
from types import SimpleNamespace

import pytest

from sana_ae.checkpoint_writing import model_card, replacing_files


def test_a_new_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "deep" / "model"
    with replacing_files(target) as folder:
        (folder / "config.json").write_text("{}")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["config.json"]
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_failure_changes_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("old")

    def fail():
        with replacing_files(tmp_path / "model") as folder:
            (folder / "config.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "model" / "config.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_an_earlier_save_left_goes_and_other_files_stay(tmp_path):
    for name in ("sana.json", "diffusion_pytorch_model-00001-of-00002.safetensors", "README.md"):
        (tmp_path / name).write_text("old")
    with replacing_files(tmp_path) as folder:
        (folder / "config.json").write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json"]


def test_windows_which_opens_no_folders_syncs_none(tmp_path, monkeypatch):
    monkeypatch.setattr("sana_ae.checkpoint_writing.os", SimpleNamespace(name="nt", replace=os.replace))
    with replacing_files(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
    assert (tmp_path / "model" / "config.json").exists()


def test_the_card_says_what_it_is_and_how_to_load_it(shrink):
    card = model_card("me/my-ae", shrink("f64c128"), 1_500_000)
    assert "DC-AE f64c32" in card
    assert "1.5M parameters" in card
    assert 'DCAE.from_pretrained("me/my-ae")' in card
    assert "times 0.4538" in card
