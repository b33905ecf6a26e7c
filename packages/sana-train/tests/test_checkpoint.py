import os

import pytest
import torch

from sana_train import CheckpointError
from sana_train.checkpoint import list_checkpoints, load_newest_checkpoint, replace_folder, save_checkpoint


def test_newest_is_loaded_and_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, {"step": step}, step=step, keep=2)
    assert load_newest_checkpoint(tmp_path) == {"step": 10}
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002.pt", "step-00000010.pt"]


def test_a_truncated_checkpoint_is_passed_over(tmp_path):
    save_checkpoint(tmp_path, {"step": 1, "x": torch.ones(100)}, step=1, keep=2)
    newest = save_checkpoint(tmp_path, {"step": 2, "x": torch.ones(100)}, step=2, keep=2)
    os.truncate(newest, newest.stat().st_size // 2)
    assert load_newest_checkpoint(tmp_path)["step"] == 1


def test_a_flipped_bit_is_found(tmp_path):
    save_checkpoint(tmp_path, {"step": 1, "x": torch.ones(1000)}, step=1, keep=2)
    newest = save_checkpoint(tmp_path, {"step": 2, "x": torch.ones(1000)}, step=2, keep=2)
    content = bytearray(newest.read_bytes())
    content[content.index(torch.ones(2).numpy().tobytes()) + 400] ^= 1
    newest.write_bytes(content)
    assert load_newest_checkpoint(tmp_path)["step"] == 1


def test_no_readable_checkpoint_is_said_with_its_reason(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_newest_checkpoint(tmp_path)
    (tmp_path / "step-00000001.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"step-00000001.pt: BadZipFile\): start a new run"):
        load_newest_checkpoint(tmp_path)


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"step": Evil()}, tmp_path / "step-00000001.pt")
    with pytest.raises(CheckpointError):
        load_newest_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    replace_folder(folder, lambda new: (new / "a").write_text("1") and None)
    with pytest.raises(OSError, match="disk full"):
        replace_folder(folder, lambda new: _fail())
    assert [path.name for path in folder.iterdir()] == ["a"]
    replace_folder(folder, lambda new: (new / "b").write_text("2") and None)
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert not folder.with_name("model.old").exists()


def _fail():
    raise OSError("disk full")
