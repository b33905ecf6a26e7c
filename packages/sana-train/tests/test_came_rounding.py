import torch

from sana_train.came.rounding import Noise, noise_key, round_to_bfloat16


def test_rounding_is_unbiased():
    # 1 + 0.3 of bfloat16's step at 1: rounds up with probability 0.3; over 4096 * 64 values the share of those rounded
    # up has a standard deviation of 0.0009, of which 5 are allowed.
    values = torch.full((4096,), 1 + 0.3 * 2**-7)
    ups = [(round_to_bfloat16(values, Noise(noise_key(0, step), 0)) > 1).float().mean() for step in range(64)]
    assert abs(torch.stack(ups).mean() - 0.3) < 5 * 0.0009


def test_every_element_is_unbiased_over_the_steps():
    values = torch.full((256,), -1 - 0.5 * 2**-7)
    ups = sum((round_to_bfloat16(values, Noise(noise_key(step, 3), 0)) < -1).float() for step in range(1024))
    # Each count is binomial(1024, 1/2), of standard deviation 16.
    assert ((ups - 512).abs() < 5 * 16).all()


def test_neighbouring_elements_and_steps_are_not_correlated():
    values = torch.full((65536,), 1 + 0.5 * 2**-7)
    first, second = ((round_to_bfloat16(values, Noise(noise_key(7, step), 0)) > 1).float() - 0.5 for step in (1, 2))
    for one, other in ((first[1:], first[:-1]), (first, second), (first[256:], first[:-256])):
        assert abs((one * other).mean() / 0.25) < 5 * 65536**-0.5


def test_the_bits_belong_to_the_elements():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    whole = round_to_bfloat16(values, Noise(5, 0))
    parts = [round_to_bfloat16(part, Noise(5, 400 * number)) for number, part in enumerate(values.split(400))]
    assert torch.equal(whole, torch.cat(parts))


def test_what_bfloat16_can_hold_is_kept():
    values = torch.tensor([0.0, -0.0, 1.5, -3.0, torch.inf, -torch.inf, 2.0**-130])
    for step in range(50):
        assert torch.equal(round_to_bfloat16(values, Noise(noise_key(step), 0)).float(), values)
    assert round_to_bfloat16(torch.tensor([torch.nan, -torch.nan]), Noise(1, 0)).isnan().all()


def test_keys_differ_in_every_number():
    keys = {noise_key(seed, step, number) for seed in range(8) for step in range(32) for number in range(32)}
    assert len(keys) == 8 * 32 * 32
