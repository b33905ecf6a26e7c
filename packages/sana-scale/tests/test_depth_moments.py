import torch

from sana_scale.depth.moments import Moments


def one_block(values):
    return torch.zeros(len(values), dtype=torch.long), torch.tensor(values, dtype=torch.float64)[:, None]


def test_units_of_one_observation_have_the_textbook_error_of_a_mean():
    values = [0.1, 0.4, 0.2, 0.9]
    moments = Moments(blocks=1, cells=1, quantities=1)
    blocks, column = one_block(values)
    moments.add_units(blocks, torch.zeros(4, dtype=torch.long), column)
    weights = torch.ones(1, 1, dtype=torch.float64)
    assert torch.allclose(moments.means(weights)[0, 0], column.mean())
    assert torch.allclose(moments.standard_errors(weights)[0, 0], column.std() / 2)


def test_observations_of_one_unit_count_as_one():
    # Ten copies of each of two values are no surer than the two values: error |a - b| / 2.
    moments = Moments(blocks=1, cells=1, quantities=1)
    for value in (0.2, 0.6):
        blocks, column = one_block([value] * 10)
        moments.add_unit(blocks, torch.zeros(10, dtype=torch.long), column)
    weights = torch.ones(1, 1, dtype=torch.float64)
    assert torch.allclose(moments.means(weights), torch.tensor(0.4, dtype=torch.float64))
    assert torch.allclose(moments.standard_errors(weights), torch.tensor(0.2, dtype=torch.float64))


def test_errors_of_weighted_cells_know_that_a_unit_fills_several():
    # Every unit has one observation per cell, so the error is that of the units' weighted sums.
    table = torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # units x cells
    moments = Moments(blocks=1, cells=3, quantities=1)
    for row in table:
        moments.add_unit(torch.zeros(3, dtype=torch.long), torch.arange(3), row[:, None])
    weights = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    sums = table @ weights[0]
    assert torch.allclose(moments.means(weights)[0, 0], sums.mean())
    assert torch.allclose(moments.standard_errors(weights)[0, 0], sums.std() / 6**0.5)


def test_one_unit_has_no_error():
    moments = Moments(blocks=1, cells=1, quantities=1)
    moments.add_unit(*(torch.zeros(1, dtype=torch.long),) * 2, torch.ones(1, 1, dtype=torch.float64))
    assert moments.standard_errors(torch.ones(1, 1, dtype=torch.float64)).isnan().all()
