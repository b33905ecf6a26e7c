from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from sana_ae.training import FrechetDistance, InceptionV3
from sana_ae.training.inception import resize_as_tensorflow

# The convolutions of pytorch-fid's network, which has the names and shapes of its file.
CONVOLUTIONS = dict(
    line.split() for line in Path(__file__).with_name("inception_convolutions.txt").read_text().splitlines()
)


def published(fill):
    """Tensors under the published names, those of a name and a shape being `fill(name, shape)`."""
    tensors = {"fc.weight": fill("fc.weight", (1008, 2048)), "fc.bias": fill("fc.bias", (1008,))}
    for name, sizes in CONVOLUTIONS.items():
        shape = tuple(map(int, sizes.split("x")))
        tensors[f"{name}.conv.weight"] = fill(f"{name}.conv.weight", shape)
        for norm in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{name}.bn.{norm}"] = fill(f"{name}.bn.{norm}", shape[:1])
    return tensors


def flat(_, shape):
    """Zeros that take no room in a file."""
    return torch.zeros(1).expand(shape)


def random(name, shape):
    if "conv" in name:
        return torch.randn(shape) * (2 / shape[1:].numel()) ** 0.5
    return 0.5 + torch.rand(shape)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return published(lambda name, shape: random(name, torch.Size(shape)))


@pytest.fixture(scope="module")
def inception(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(weights, path)
    yield InceptionV3.from_file(path)
    path.unlink()  # 90 MB


class Definition:
    """The features of the graph, written down from its published names."""

    def __init__(self, weights):
        self.weights = weights

    def conv(self, x, name, *, stride=1, padded=True):
        kernel = self.weights[f"{name}.conv.weight"]
        norm = (
            self.weights[f"{name}.bn.{n}"].view(-1, 1, 1) for n in ("weight", "bias", "running_mean", "running_var")
        )
        gamma, beta, mean, variance = norm
        y = F.conv2d(x, kernel, stride=stride, padding=[side // 2 if padded else 0 for side in kernel.shape[2:]])
        return ((y - mean) / (variance + 1e-3).sqrt() * gamma + beta).clamp(min=0)

    def chain(self, x, name, count, *, halve=False):
        for number in range(1, count + 1):
            last = halve and number == count
            x = self.conv(x, f"{name}_{number}", stride=2 if last else 1, padded=not last)
        return x

    def fork(self, x, name):
        return torch.cat([self.conv(x, f"{name}a"), self.conv(x, f"{name}b")], 1)

    def average(self, x):
        """Of the three by three places around each that lie inside."""
        around = [F.pad(y, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).sum((4, 5)) for y in (x, torch.ones_like(x))]
        return around[0] / around[1]

    def mixed(self, x, name):
        branch = f"{name}.branch"
        if name in ("Mixed_6a", "Mixed_7a"):
            pooled = F.max_pool2d(x, 3, 2)
            if name == "Mixed_6a":
                first = self.conv(x, f"{branch}3x3", stride=2, padded=False)
                return torch.cat([first, self.chain(x, f"{branch}3x3dbl", 3, halve=True), pooled], 1)
            first = self.chain(x, f"{branch}3x3", 2, halve=True)
            return torch.cat([first, self.chain(x, f"{branch}7x7x3", 4, halve=True), pooled], 1)
        pooled = F.max_pool2d(x, 3, 1, 1) if name == "Mixed_7c" else self.average(x)
        if name.startswith("Mixed_5"):
            middle = [self.chain(x, f"{branch}5x5", 2), self.chain(x, f"{branch}3x3dbl", 3)]
        elif name.startswith("Mixed_6"):
            middle = [self.chain(x, f"{branch}7x7", 3), self.chain(x, f"{branch}7x7dbl", 5)]
        else:
            single, double = self.chain(x, f"{branch}3x3", 1), self.chain(x, f"{branch}3x3dbl", 2)
            middle = [self.fork(single, f"{branch}3x3_2"), self.fork(double, f"{branch}3x3dbl_3")]
        return torch.cat([self.conv(x, f"{branch}1x1"), *middle, self.conv(pooled, f"{branch}_pool")], 1)

    def __call__(self, pixels):
        x = self.conv((pixels - 128) / 128, "Conv2d_1a_3x3", stride=2, padded=False)
        x = self.conv(self.conv(x, "Conv2d_2a_3x3", padded=False), "Conv2d_2b_3x3")
        x = self.conv(self.conv(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1"), "Conv2d_4a_3x3", padded=False)
        x = F.max_pool2d(x, 3, 2)
        for name in dict.fromkeys(name.partition(".")[0] for name in CONVOLUTIONS if name.startswith("Mixed")):
            x = self.mixed(x, name)
        return x.mean((2, 3))


@torch.no_grad()
def test_its_features_are_those_of_the_graph(inception, weights, relative_error):
    pixels = torch.randint(0, 256, (1, 3, 299, 299))  # not resized
    features = inception(pixels / 127.5 - 1)
    assert features.shape == (1, 2048)
    # 94 convolutions in fp32, whose norms are rounded elsewhere: about 1e-7 each.
    assert relative_error(features, Definition(weights)(pixels.float())) < 1e-5


def test_images_are_resized_without_half_pixels():
    row = torch.tensor([0.0, 10, 40, 20])
    # Places 0, 4/6, 8/6, 12/6, 16/6, 20/6 of the row; beyond the last pixel it goes on as it is.
    wanted = torch.tensor([0.0, 20 / 3, 20, 40, 80 / 3, 20])
    assert torch.allclose(resize_as_tensorflow(row.expand(1, 1, 4, 4), 6)[0, 0, 5], wanted)
    assert torch.allclose(resize_as_tensorflow(row[:, None].expand(1, 1, 4, 4), 6)[0, 0, :, 5], wanted)


def test_large_images_are_sampled_and_not_smoothed():
    image = torch.arange(36.0).view(1, 1, 6, 6)
    assert torch.equal(resize_as_tensorflow(image, 3), image[:, :, ::2, ::2])


@torch.no_grad()
def test_images_are_seen_as_8_bit_pixels(inception):
    pixels = torch.randint(0, 256, (1, 3, 8, 8))
    assert torch.equal(inception(pixels / 127.5 - 1), inception((pixels + 0.4) / 127.5 - 1))


def test_its_weights_are_constants(inception):
    assert not inception.training
    assert not any(parameter.requires_grad for parameter in inception.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"Mixed_7c.branch3x3_2a.conv.weight": None},
            r"Mixed_7c.branch3x3_2a.conv.weight missing instead of \(384, 38",
        ),
        ({"AuxLogits.fc.bias": torch.zeros(1000)}, r"AuxLogits.fc.bias unknown \(1 in all\)"),
        ({"fc.weight": torch.zeros(1).expand(1000, 2048)}, r"fc.weight \(1000, 2048\) instead of \(1008, 2048\)"),
        ({"Conv2d_1a_3x3.bn.bias": torch.full((32,), torch.nan)}, "Conv2d_1a_3x3.bn.bias not finite"),
    ],
)
def test_another_network_is_refused(changes, message, tmp_path):
    tensors = {name: tensor for name, tensor in (published(flat) | changes).items() if tensor is not None}
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=message):
        InceptionV3.from_file(tmp_path / "other.pth")


@pytest.mark.parametrize("form", ["zip", "older", "safetensors"])
def test_every_form_of_the_file_is_read(form, tmp_path):
    tensors = published(flat) | {"Mixed_5b.branch1x1.bn.num_batches_tracked": torch.tensor(3)}
    tensors["Mixed_7b.branch3x3dbl_3b.bn.bias"] = torch.arange(384.0)
    path = tmp_path / ("inception.safetensors" if form == "safetensors" else "inception.pth")
    if form == "safetensors":
        save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    inception = InceptionV3.from_file(path)
    path.unlink()
    assert {parameter.dtype for parameter in inception.parameters()} == {torch.float32}
    assert torch.equal(inception.Mixed_7b["branch3x3dbl"][2]["b"].bn.bias, torch.arange(384.0))


def test_the_logits_may_be_absent(tmp_path):
    tensors = {name: tensor for name, tensor in published(flat).items() if not name.startswith("fc.")}
    torch.save(tensors, tmp_path / "inception.pth")
    assert InceptionV3.from_file(tmp_path / "inception.pth")


def test_a_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.pth: download pt_inception-2015-12-05"):
        InceptionV3.from_file(tmp_path / "none.pth")


def test_a_distance_of_fewer_images_than_features_is_finite():
    features = torch.rand(3, 2048)
    distance = FrechetDistance()
    distance.update(decoded=features + 0.5, images=features)
    assert distance.compute() == pytest.approx(2048 * 0.25, rel=1e-6)  # moved, and otherwise the same: rounding of fp32
