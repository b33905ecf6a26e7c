"""Tiles give what the whole image gives."""

import pytest
import torch

from sana_ae import tiling

SHAPES = ["sana", "lite", "f32c32", "f64c128", "f128c512", "1.5-f32c128", "1.5-f64c128"]


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_give_the_whole_result(shape, make_model, relative_error):
    model = make_model(shape)
    f = model.config.compression
    x = torch.randn(1, 3, 3 * f, 2 * f if f > 32 else 5 * f)
    with torch.no_grad():
        z = model.encode(x)
        image = model.decode(z)
        # Sums in another order: a few fp32 roundings more.
        assert relative_error(model.encode(x, tile=f, progress=False), z) < 2e-6
        assert relative_error(model.decode(z, tile=f, progress=False), image) < 2e-6


def test_tiles_of_a_full_resolution_stage_with_attention_give_the_whole_result(make_model, relative_error):
    blocks = ("EfficientViTBlock",) * 6
    model = make_model("sana", encoder_block_types=blocks, decoder_block_types=blocks)
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 32)
        z = model.encode(x)
        assert relative_error(model.encode(x, tile=32), z) < 2e-6
        assert relative_error(model.decode(z, tile=32), model.decode(z)) < 2e-6


def test_a_tile_as_large_as_the_image_changes_nothing(make_model):
    model, z = make_model("sana"), torch.randn(1, 8, 2, 3)
    with torch.no_grad():
        assert torch.equal(model.decode(z, tile=96), model.decode(z))


def test_tiles_know_adaptive_channels(make_model, relative_error):
    model, x = make_model("1.5-f32c128"), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(model.encode(x, tile=32, channels=4), model.encode(x, channels=4)) < 2e-6


@pytest.mark.parametrize("tile", [0, -32, 48])
def test_tiles_that_do_not_divide_are_refused(tile, make_model):
    with pytest.raises(ValueError, match=f"tile is {tile} pixels; it must be a multiple of 32"):
        make_model("sana").decode(torch.randn(1, 8, 2, 2), tile=tile)


def test_tiles_are_refused_while_batch_norms_train(make_model):
    model, z = make_model("f32c32").train(), torch.randn(1, 8, 2, 2)
    for call in (lambda: model.decode(z, tile=32), lambda: model.encode(torch.randn(1, 3, 64, 64), tile=32)):
        with pytest.raises(ValueError, match=r"tiles need batch norms in eval mode.*call eval\(\)"):
            call()
    assert model.decode(z, tile=64).shape == (1, 3, 64, 64)  # one tile is the whole image
    make_model("sana").train().decode(z, tile=32)


def test_a_tile_sees_no_more_of_the_image_than_itself_and_a_margin(make_model):
    """Full-size activations exist for a tile only: that is what saves memory."""
    model, seen = make_model("sana"), []
    model.decoder.up_blocks[0].register_forward_hook(lambda module, args, output: seen.append(output.shape[2:]))
    with torch.no_grad():
        model.decode(torch.randn(1, 8, 8, 8), tile=64, progress=False)
    # Two ResBlocks and the last convolution see 5 pixels around, rounded up to whole cells of the stage before.
    assert max(max(size) for size in seen) <= 64 + 2 * 8
    assert len(seen) == 16


def test_a_step_asks_for_the_cells_its_result_depends_on():
    up, down = (
        tiling.Step(apply=torch.nn.Identity(), zoom=1, margin=2),
        tiling.Step(apply=torch.nn.Identity(), zoom=-1, margin=2),
    )
    assert up.source((7, 9), limit=100) == (1, 7)
    assert down.source((7, 9), limit=100) == (10, 22)
    assert down.source((0, 50), limit=100) == (0, 100)


def test_the_progress_bar_can_be_switched_off(make_model, monkeypatch):
    bars = []
    monkeypatch.setattr(tiling, "tqdm", lambda tiles, **options: bars.append(options["disable"]) or tiles)
    model, z = make_model("lite"), torch.randn(1, 8, 2, 2)
    with torch.no_grad():
        model.decode(z, tile=32)
        model.decode(z, tile=32, progress=False)
    assert bars == [False, True]
