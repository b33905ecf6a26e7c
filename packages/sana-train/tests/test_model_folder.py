import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sana_train.checkpointing.model_folder import ModelFolder


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3, bias=False)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("scratch", torch.ones(2), persistent=False)


class Named(nn.Linear):
    def save_pretrained(self, folder):
        (folder / "weight.txt").write_text(repr((self.weight.tolist(), self.weight.device.type)))


def test_averages_are_written_in_the_dtype_of_the_weights_with_the_models_buffers(tmp_path):
    model = Normed().bfloat16()
    folder = ModelFolder(model)
    model.norm.running_mean.fill_(7)
    folder.write(tmp_path / "model", model, {"linear.weight": torch.full((3, 3), 0.5)})
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert saved["linear.weight"].dtype == torch.bfloat16
    assert saved["linear.weight"].eq(0.5).all()
    assert torch.equal(saved["norm.weight"], model.norm.weight)
    assert torch.equal(saved["norm.running_mean"], model.norm.running_mean)
    assert "scratch" not in saved
    assert not model.linear.weight.eq(0.5).any()


def test_the_models_own_writer_sees_the_weights_every_time(tmp_path):
    model = Named(1, 1, bias=False)
    folder = ModelFolder(model)
    for value in (1.0, 2.0):
        folder.write(tmp_path / "model", model, {"weight": torch.tensor([[value]])})
        assert (tmp_path / "model" / "weight.txt").read_text() == repr(([[value]], "cpu"))


def test_between_writes_no_second_set_of_weights_is_kept(tmp_path):
    model = Normed()
    folder = ModelFolder(model)
    folder.write(tmp_path / "model", model, {})
    assert {parameter.device.type for parameter in folder._copy.parameters()} == {"meta"}


def test_a_folder_that_cannot_be_written_stays_as_it_was(tmp_path):
    class Full(Named):
        def save_pretrained(self, folder):
            raise OSError("No space left on device")

    good, full = Named(1, 1), Full(1, 1)
    ModelFolder(good).write(tmp_path / "model", good, {})
    before = (tmp_path / "model" / "weight.txt").read_text()
    with pytest.raises(OSError, match=r"model was not written and is as it was .*No space left"):
        ModelFolder(full).write(tmp_path / "model", full, {})
    assert (tmp_path / "model" / "weight.txt").read_text() == before
