import numpy as np
import pytest
import torch

from sana_ae.training import MultiScaleSSIM, multiscale_ssim, ssim


def similarity_map(a, b, data_range):
    """The two terms of SSIM by the letter of Wang et al. 2004, in NumPy, window by window."""
    offsets = np.arange(11) - 5.0
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    views = [np.lib.stride_tricks.sliding_window_view(x, (11, 11)) for x in (a, b)]
    x, y = (view.astype(np.float64) for view in views)
    mx, my = ((v * window).sum((-1, -2)) for v in (x, y))
    vx, vy = (((v - m[..., None, None]) ** 2 * window).sum((-1, -2)) for v, m in ((x, mx), (y, my)))
    cov = ((x - mx[..., None, None]) * (y - my[..., None, None]) * window).sum((-1, -2))
    return (2 * mx * my + c1) / (mx**2 + my**2 + c1), (2 * cov + c2) / (vx + vy + c2)


@pytest.fixture
def pair():
    """Two images of 48 x 40 that are alike but not equal, 0 to 255."""
    a = torch.rand(2, 3, 48, 40)
    a = torch.nn.functional.avg_pool2d(a, 5, stride=1, padding=2) * 255
    return a, (a + 20 * torch.randn_like(a)).clamp(0, 255)


def test_ssim_is_that_of_the_definition(pair):
    a, b = pair
    wanted = [
        np.mean([np.prod(similarity_map(x.numpy(), y.numpy(), 255.0), axis=0) for x, y in zip(p, q, strict=True)])
        for p, q in zip(a, b, strict=True)
    ]
    # E[x^2] - E[x]^2 in fp32 at 255: 2^-24 * 255^2 = 0.004 beside c2 = 58.5, so 1e-4 of a term.
    assert ssim(a, b, data_range=255.0).tolist() == pytest.approx(wanted, abs=1e-4)


def test_multiscale_ssim_is_that_of_the_definition(pair):
    a, b = (x[:1] / 255 for x in pair)
    weights = np.array([0.0448, 0.2856])  # 40 pixels a side allow windows of 11 in two scales (40, 20) ...
    weights = weights * 1.0001 / weights.sum()  # ... which share the weights of all five, 1.0001 in the paper
    channels = []
    for x, y in zip(a[0].numpy(), b[0].numpy(), strict=True):
        value = similarity_map(x, y, 1.0)[1].mean() ** weights[0]
        x, y = (v.reshape(24, 2, 20, 2).mean((1, 3)) for v in (x, y))
        channels.append(value * np.prod(similarity_map(x, y, 1.0), axis=0).mean() ** weights[1])
    assert multiscale_ssim(a, b, data_range=1.0).item() == pytest.approx(np.mean(channels), abs=1e-4)


def test_equal_images_are_at_no_distance():
    images = torch.rand(3, 3, 176, 180) * 2 - 1
    assert MultiScaleSSIM()(images, images).abs().max() < 1e-5


def test_the_distance_grows_with_the_noise():
    images = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8) * 2 - 1, size=128, mode="bilinear")
    noise = torch.randn_like(images)
    distances = [MultiScaleSSIM()(images + scale * noise, images).item() for scale in (0.01, 0.1, 1.0)]
    assert distances == sorted(distances)


def test_images_without_anything_in_common_have_a_finite_gradient():
    decoded = torch.randn(1, 3, 32, 32, requires_grad=True)
    MultiScaleSSIM()(decoded, -decoded.detach()).sum().backward()
    assert decoded.grad is not None
    assert decoded.grad.isfinite().all()


def test_bf16_autocast_does_not_touch_it(pair):
    a, b = pair
    with torch.autocast("cpu", torch.bfloat16):
        under = ssim(a, b, data_range=255.0)
    assert torch.equal(under, ssim(a, b, data_range=255.0))


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="at least 11 pixels a side"):
        ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20), data_range=1.0)
