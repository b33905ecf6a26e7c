import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from sana_ae.training import LPIPS

PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(scope="module")
def vgg16():
    """Random weights under torchvision's names, in the order of its `features`."""
    torch.manual_seed(0)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, *(512,) * 6)
    layers = {place: nn.Conv2d(a, b, 3) for place, a, b in zip(PLACES, widths, widths[1:], strict=False)}
    weights = {
        f"features.{place}.{name}": p.detach() for place, c in layers.items() for name, p in c.named_parameters()
    }
    return weights | {"classifier.0.weight": torch.zeros(4, 4)}


@pytest.fixture(scope="module")
def heads():
    return {f"lin{n}.model.1.weight": torch.rand(1, w, 1, 1) for n, w in enumerate((64, 128, 256, 512, 512))}


@pytest.fixture(scope="module", params=[".pth", ".safetensors"])
def files(request, vgg16, heads, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    paths = {name: folder / f"{name}{request.param}" for name in ("vgg16", "heads")}
    for name, tensors in (("vgg16", vgg16), ("heads", heads)):
        torch.save(tensors, paths[name]) if request.param == ".pth" else save_file(tensors, paths[name])
    return paths


def distance(a, b, vgg16, heads):
    """LPIPS v0.1 of one pair, layer by layer as torchvision's `features` lists them."""
    total, compared = 0.0, 0
    x, y = ((v - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) for v in (a, b))
    x, y = (v / torch.tensor([0.458, 0.448, 0.450])[:, None, None] for v in (x, y))
    for layer in range(30):
        if layer in PLACES:
            weight, bias = (vgg16[f"features.{layer}.{name}"] for name in ("weight", "bias"))
            x, y = (F.conv2d(v, weight, bias, padding=1) for v in (x, y))
        elif layer in (4, 9, 16, 23):
            x, y = (F.max_pool2d(v, 2) for v in (x, y))
        else:
            x, y = (v.clamp(min=0) for v in (x, y))
        if layer in (3, 8, 15, 22, 29):
            u, v = (w.numpy().astype(np.float64) for w in (x, y))
            u, v = (w / (np.sqrt((w**2).sum(0)) + 1e-10) for w in (u, v))
            head = heads[f"lin{compared}.model.1.weight"].numpy().reshape(-1, 1, 1)
            total += ((u - v) ** 2 * head).sum(0).mean()
            compared += 1
    return total


def test_it_is_the_distance_of_the_definition(files, vgg16, heads):
    a, b = torch.rand(2, 2, 3, 32, 40) * 2 - 1
    wanted = [distance(x, y, vgg16, heads) for x, y in zip(a, b, strict=True)]
    assert LPIPS.from_files(**files)(a, b).tolist() == pytest.approx(wanted, rel=1e-4)


def test_equal_images_are_at_no_distance_and_black_ones_have_a_finite_gradient(files):
    lpips = LPIPS.from_files(**files)
    images = torch.full((1, 3, 32, 32), -1.0, requires_grad=True)
    value = lpips(images, images.detach())
    assert value.item() == 0.0
    value.sum().backward()
    assert images.grad.isfinite().all()


def test_its_weights_are_constants(files):
    assert not any(parameter.requires_grad for parameter in LPIPS.from_files(**files).parameters())


def test_a_file_of_another_network_is_refused(files, tmp_path):
    save_file({"features.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"features.0.weight \(8, 3, 3, 3\) instead of \(64, 3, 3, 3\)"):
        LPIPS.from_files(vgg16=tmp_path / "other.safetensors", heads=files["heads"])


def test_a_missing_file_says_where_to_get_it(tmp_path, files):
    with pytest.raises(FileNotFoundError, match="download VGG16 from torchvision"):
        LPIPS.from_files(vgg16=tmp_path / "none.pth", heads=files["heads"])


def test_images_too_small_for_vgg16_are_refused(files):
    with pytest.raises(ValueError, match="at least 16 pixels"):
        LPIPS.from_files(**files)(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
