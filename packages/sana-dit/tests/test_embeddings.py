"""Patches, positions, time and captions."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sana_dit.embeddings import CaptionEmbedding, PatchEmbedding, ScalarEmbedding, sincos_positions


@pytest.mark.parametrize("patch_size", [1, 2])
def test_patches_are_those_of_a_convolution(tiny_config, patch_size):
    patch = PatchEmbedding(replace(tiny_config, patch_size=patch_size))
    latents = torch.randn(2, 4, 4, 6)
    kernel = patch.proj.weight.reshape(128, 4, patch_size, patch_size)
    expected = F.conv2d(latents, kernel, patch.proj.bias, stride=patch_size).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patch(latents), expected)


def test_positions_are_sines_and_cosines_of_column_then_row():
    positions = sincos_positions(3, 2, dim=16, stretch=8.0)
    for row in range(3):
        for column in range(2):
            for i in range(4):
                frequency = 10000 ** (-i / 4)
                x, y = column * 8 / 2 * frequency, row * 8 / 3 * frequency
                token = positions[row * 2 + column]
                expected = [math.sin(x), math.cos(x), math.sin(y), math.cos(y)]
                # float32 of a position is off by 2^-24 of 8, and so is the angle.
                assert token[i::4].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_finer_grid_spans_the_same_range():
    coarse, fine = (sincos_positions(n, n, dim=16, stretch=8.0) for n in (4, 8))
    assert torch.equal(fine.reshape(8, 8, 16)[::2, ::2].reshape(16, 16), coarse)


def test_time_is_256_cosines_then_sines(tiny_config):
    embedding = ScalarEmbedding(256)
    with torch.no_grad():
        embedding.linear_1.weight.copy_(torch.eye(256))
        embedding.linear_2.weight.copy_(torch.eye(256))
    out = embedding(torch.tensor([731.0]))[0]
    angles = [731.0 * math.exp(-math.log(10000) * i / 128) for i in range(128)]
    waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    # An angle near 731 is known to 3e-5 in float32.
    torch.testing.assert_close(out, F.silu(waves), rtol=0, atol=1e-4)


def test_captions_start_with_a_small_norm(tiny_config):
    caption = CaptionEmbedding(tiny_config)(torch.randn(2, 5, 16) * 1000)
    # Root mean square 0.01 whatever the states, but for eps 1e-5 beside squares of at least 1.
    torch.testing.assert_close(caption.square().mean(-1).sqrt(), torch.full((2, 5), 0.01), rtol=1e-4, atol=0)


def test_captions_reset_to_the_same_values_from_the_same_seed(tiny_config):
    embeddings = [CaptionEmbedding(tiny_config) for _ in range(2)]
    for embedding in embeddings:
        torch.nn.init.ones_(embedding.norm)
        embedding.reset_parameters(torch.Generator().manual_seed(0))
    for first, second in zip(*(e.parameters() for e in embeddings), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(embeddings[0].norm, torch.full((128,), 0.01))
