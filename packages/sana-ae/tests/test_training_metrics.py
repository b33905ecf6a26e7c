import math

import numpy as np
import pytest
import torch

from sana_ae.training import FrechetDistance, MultiScaleSSIM, as_pixels, reconstruction_metrics


def test_psnr_is_of_the_8_bit_error_over_all_images():
    images = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    changed = images.clone()
    changed[0] = 30  # squared error 900 in one of three images
    decoded = iter(changed.split(2))
    measured = reconstruction_metrics(lambda x: next(decoded).float() / 127.5 - 1, images, batch_size=2)
    assert measured["psnr"] == pytest.approx(10 * math.log10(255**2 / 300))


def test_errors_below_half_a_grey_level_do_not_count():
    images = torch.rand(2, 3, 16, 16).mul(255).byte()
    measured = reconstruction_metrics(lambda x: x + 0.4 / 127.5, images)
    assert measured["psnr"] == math.inf
    assert measured["ssim"] == pytest.approx(1.0, abs=1e-5)


def test_pixels_are_clipped_and_rounded():
    assert as_pixels(torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0])).tolist() == [0, 0, 128, 255, 255]


def test_distances_are_measured_where_they_are_given():
    images = torch.rand(4, 3, 16, 16).mul(255).byte()
    measured = reconstruction_metrics(
        lambda x: x, images, perceptual=MultiScaleSSIM(), features=lambda x: x.mean(dim=(2, 3))
    )
    assert measured["lpips"] == pytest.approx(0, abs=1e-5)
    assert measured["rfid"] == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(30, 5)) + 1
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(c.trace() for c in covariances) - 2 * roots
    distance = FrechetDistance()
    distance.update(decoded=torch.from_numpy(a[:10]), images=torch.from_numpy(b[:20]))
    distance.update(decoded=torch.from_numpy(a[10:]), images=torch.from_numpy(b[20:]))
    assert distance.compute() == pytest.approx(wanted, rel=1e-9)


def test_one_image_has_no_covariance():
    distance = FrechetDistance()
    distance.update(decoded=torch.zeros(1, 2), images=torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"1 image\(s\)"):
        distance.compute()


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        reconstruction_metrics(lambda x: x, torch.zeros(0, 3, 16, 16))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_reconstructions_that_are_not_finite_have_no_metrics(value):
    images = torch.rand(4, 3, 16, 16).mul(255).byte()

    def broken(x):
        x[:, :, 3, 3] = value
        return x

    measured = reconstruction_metrics(
        broken, images, batch_size=2, perceptual=MultiScaleSSIM(), features=lambda x: x.mean(dim=(2, 3))
    )
    assert [name for name, found in measured.items() if not math.isnan(found)] == []


def test_features_that_are_not_finite_have_no_distance():
    images = torch.rand(4, 3, 16, 16).mul(255).byte()
    measured = reconstruction_metrics(lambda x: x, images, features=lambda x: x.mean(dim=(2, 3)) / 0)
    assert math.isnan(measured["rfid"])
    assert measured["psnr"] == math.inf


def test_a_reconstruction_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"images \(2, 3, 33, 33\) were reconstructed as \(2, 3, 32, 32\)"):
        reconstruction_metrics(lambda x: x[..., :32, :32], torch.zeros(2, 3, 33, 33))


def test_nothing_is_fp64_on_the_device_of_the_images():
    """As on MPS, which has none: a tensor is converted after it came to the CPU."""

    class Elsewhere(torch.Tensor):
        def cpu(self):
            return self.as_subclass(torch.Tensor)

        def double(self):
            raise TypeError("no fp64 here")

    images = torch.rand(2, 3, 16, 16).mul(255).byte().as_subclass(Elsewhere)
    reconstruction_metrics(lambda x: x, images, perceptual=MultiScaleSSIM(), features=lambda x: x.mean(dim=(2, 3)))
