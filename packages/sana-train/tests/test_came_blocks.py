import pytest
import torch

from sana_train.came.blocks import Dynamic, Quantized, row_blocks


def empty(rows, columns, width, layout="row"):
    shape = (rows, -(-columns // width)) if layout == "row" else (-(-rows * columns // width),)
    codes = torch.full((rows, columns), 77, dtype=torch.uint8)  # nothing relies on what was there before
    return Quantized(codes, torch.full(shape, torch.nan), torch.full(shape, torch.nan), width)


def stored(values, width, layout="row"):
    quantized = empty(*values.shape, width, layout)
    quantized.write(values)
    return quantized


@pytest.mark.parametrize(
    ("columns", "size", "blocks"),
    [(2240, 2048, (2, 1120)), (5600, 2048, (3, 1872)), (2048, 2048, (1, 2048)), (5, 2, (3, 2)), (3, 1, (3, 1))],
)
def test_a_row_is_cut_into_blocks_of_almost_one_width(columns, size, blocks):
    assert row_blocks(columns, size) == blocks


@pytest.mark.parametrize("layout", ["row", "flat"])
@pytest.mark.parametrize("width", [7, 10, 64])
def test_codes_are_the_rounded_steps_above_the_lowest(layout, width):
    values = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    quantized = stored(values, width, layout)
    runs = list(values) if layout == "row" else [values.view(-1)]
    blocks = [block.double() for run in runs for block in run.split(width)]
    expected = [((b - b.min()) / ((b.max() - b.min()) / 255)).round() if b.numel() > 1 else b * 0 for b in blocks]
    assert torch.equal(quantized.codes.view(-1).double(), torch.cat(expected))
    # Half a step, and the float32 rounding of the sum.
    steps = torch.cat([(b.max() - b.min()).expand_as(b) for b in blocks]).view_as(values) / 255
    assert ((quantized.read() - values).abs() <= 0.5 * steps + 1e-6).all()


@pytest.mark.parametrize("value", [0.0, 0.3, -7.0, 1e-42])
def test_a_constant_block_is_exact(value):
    values = torch.full((3, 20), value)
    assert torch.equal(stored(values, 8).read(), values)


def test_a_range_too_small_to_divide_by_becomes_one_value():
    values = torch.tensor([[0.0, 1e-39, 2e-39, 1e-37]])
    assert torch.equal(stored(values, 2).read()[0, :2], torch.zeros(2))
    assert (stored(values, 4).read() - values).abs().max() < 255 * 2**-126


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("layout", ["row", "flat"])
def test_a_block_that_is_not_finite_reads_as_nan_and_spares_its_neighbours(bad, layout):
    values = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    clean = stored(values, 6, layout).read()
    values[1, 2] = bad
    quantized = stored(values, 6, layout)
    assert quantized.read()[1, :6].isnan().all()
    assert torch.equal(quantized.codes[1, :6], torch.zeros(6, dtype=torch.uint8))
    clean[1, :6] = torch.nan
    assert torch.equal(quantized.read().nan_to_num(9.0), clean.nan_to_num(9.0))


@pytest.mark.parametrize(("layout", "width"), [("row", 5), ("flat", 8)])
def test_parts_written_one_by_one_are_the_whole(layout, width):
    values = torch.randn(9, 10, generator=torch.Generator().manual_seed(0))
    whole, cut = stored(values, width, layout), empty(9, 10, width, layout)
    for start in range(0, 9, 4):
        assert start % cut.row_step == 0
        cut.part(start, min(start + 4, 9)).write(values[start : start + 4])
    for name in ("codes", "scale", "low"):
        assert torch.equal(getattr(whole, name), getattr(cut, name)), name


def test_no_rows_are_no_trouble():
    assert stored(torch.empty(0, 10), 5).read().shape == (0, 10)


def dynamic(values, width):
    pytest.importorskip("bitsandbytes")
    count = -(-values.numel() // width)
    made = Dynamic(torch.zeros(values.shape, dtype=torch.uint8), torch.zeros(count), width)
    assert torch.equal(made.read(), torch.zeros_like(values))
    made.write(values)
    return made


def test_the_dynamic_code_is_bitsandbytes():
    values = torch.randn(32, 20, generator=torch.Generator().manual_seed(0))
    read = dynamic(values, 64).read()
    assert read.shape == values.shape
    # Its coarsest steps are about 1.4 % of a block's greatest value, half of which may be lost.
    assert ((read - values).abs() <= 0.008 * values.abs().max()).all()


def test_a_dynamic_block_that_is_not_finite_reads_as_nan_and_spares_its_neighbours():
    values = torch.randn(10, 20, generator=torch.Generator().manual_seed(0))
    clean = dynamic(values, 64).read()
    values[0, 3] = torch.nan
    read = dynamic(values, 64).read().view(-1)
    assert read[:64].isnan().all()
    assert torch.equal(read[64:], clean.view(-1)[64:])


@pytest.mark.parametrize("width", [64, 100, 256])  # blocks that leave a rest, fit, and are larger than the matrix
def test_a_dynamic_matrix_of_more_blocks_takes_no_more_sums(width):
    counts = []
    for rows in (10, 40):
        values = torch.zeros(rows, 20)
        kept = dynamic(values, width)
        with torch.profiler.profile(acc_events=True) as profile:
            kept.write(values)
        counts.append(sum(event.count for event in profile.key_averages() if event.key == "aten::sum"))
    assert counts[0] == counts[1] <= 2
