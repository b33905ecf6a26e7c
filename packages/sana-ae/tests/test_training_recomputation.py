import pytest
import torch

from sana_ae.training import recompute_blocks


class Saved:
    """Counts the bytes that a forward pass keeps for its backward pass."""

    def __init__(self):
        self.storages = {}

    def __call__(self, tensor):
        self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    @property
    def bytes(self):
        return sum(self.storages.values())


@pytest.mark.parametrize("shape", ["sana", "f32c32"])
def test_gradients_stay_and_memory_falls(make_model, shape):
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    kept, gradients = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = make_model(shape)
        if recompute:
            recompute_blocks(model)
        saved = Saved()
        with torch.autograd.graph.saved_tensors_hooks(saved, lambda x: x):
            loss = model(images).square().mean()
        kept.append(saved.bytes - sum(p.nbytes for p in model.parameters()))
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert kept[1] < kept[0] / 2
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
