import pytest
import torch

from sana_judge.vila.model import DownSample3x3


@pytest.mark.parametrize("side", [3, 8, 32])
def test_nine_neighbours_become_one_vector_row_by_row(side):
    x = torch.rand(2, side * side, 5)
    cells = -(-side // 3)
    padded = torch.zeros(2, 3 * cells, 3 * cells, 5)
    padded[:, :side, :side] = x.view(2, side, side, 5)
    joined = DownSample3x3()(x).view(2, cells, cells, 45)
    for row in range(cells):
        for column in range(cells):
            square = padded[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            assert torch.equal(joined[:, row, column], square.reshape(2, 45))


def test_black_is_minus_one_and_white_is_one(judge, monkeypatch):
    seen = []
    monkeypatch.setattr(judge.model.vision_tower, "forward", lambda x: seen.append(x) or torch.zeros(1, 64, 48))
    tile = torch.tensor([0, 51, 255], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 112, 112)
    judge.model.encode_tiles(tile)
    # (51 / 255 - 0.5) / 0.5, in float32
    assert seen[0][0, :, 5, 5].tolist() == pytest.approx([-1, -0.6, 1], abs=1e-7)


def test_rotary_frequencies_are_float16_numbers(judge):
    rotary = judge.model.llm.model.rotary_emb
    exact = 1e6 ** -(torch.arange(0, 16, 2) / 16)
    assert torch.equal(rotary.inv_freq, exact.half().float())


def test_logits_are_float32_sums_whatever_the_dtype_of_the_weights(judge):
    states = torch.randn(3, 64)
    exact = states.half().double() @ judge.model.llm.lm_head.weight.double().T
    logits = judge.model.logits(states.half())
    assert logits.dtype == torch.float32
    # Sums of 64 products of about 1: 64 roundings of 6e-8 at most.
    assert (logits - exact).abs().max() < 1e-5


def test_each_tile_is_followed_by_two_newlines_and_the_last_by_one(judge):
    newline = judge.model.embed([7])[0]
    features = torch.randn(2, 9, 64)
    sequence = judge.model.embed_image(features, [7])
    expected = [features[0], newline[None], newline[None], features[1], newline[None]]
    assert torch.equal(sequence, torch.cat(expected))


def test_what_is_remembered_is_not_changed_by_reading_on(judge):
    prefix, tail = judge.model.embed([1, 2, 3]), judge.model.embed([4, 5])
    with torch.no_grad():
        memory = judge.model.remember(prefix)
        first = judge.model.read([tail, tail[:1]], after=memory)
        again = judge.model.read([tail, tail[:1]], after=memory)
        whole = judge.model.read([torch.cat([prefix, tail]), torch.cat([prefix, tail[:1]])])
    assert torch.equal(first, again)
    # float32, states of about 1 after two layers.
    assert (first - whole).abs().max() < 1e-5
