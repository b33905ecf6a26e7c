import json

import pytest
import torch
from PIL import Image
from torch import nn

from sana_scale.depth import (
    Cost,
    Stage,
    block_importance,
    forward_cost,
    plot_importance,
    plot_importance_by_time,
    prune_depth,
    write_report,
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x, timestep):
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.fixture
def measured():
    torch.manual_seed(0)
    model, tokens = Model(), torch.randn(3, 5, 4)
    importance = block_importance(
        model.blocks, lambda: model(tokens, torch.tensor([50, 450, 990])), model=model, bins=5
    )
    whole = Stage(name="unpruned", cost=forward_cost(model, lambda: model(tokens, None), blocks=4), scores={"loss": 1})
    _, plan = prune_depth(model, keep=2, importance=importance)
    cost = forward_cost(model, lambda: model(tokens, None), blocks=2)
    return plan, [whole, Stage(name="pruned", cost=cost, scores={"loss": 2.5})], importance


def test_the_cost_of_a_linear_layer_is_known():
    layer = nn.Linear(16, 8)
    cost = forward_cost(layer, lambda: layer(torch.ones(3, 16)), blocks=1, repeats=2)
    assert cost.flops == 2 * 3 * 16 * 8
    assert cost.parameters == 16 * 8 + 8
    assert cost.seconds > 0


def test_the_report_has_before_and_after_side_by_side(measured, tmp_path):
    plan, stages, importance = measured
    files = write_report(tmp_path / "new" / "report", plan, stages, importance=importance)
    text = (tmp_path / "new" / "report" / "report.md").read_text()
    assert {file.name for file in files} == {path.name for path in (tmp_path / "new" / "report").iterdir()}
    assert "# Depth pruning: 4 -> 2 blocks" in text
    assert "| unpruned | 4 | 0.0M |" in text
    assert "(50%)" in text
    assert "| 2.5 |" in text
    assert "Not recovered yet" in text


def test_a_recovered_model_is_a_third_line(measured, tmp_path):
    plan, stages, _ = measured
    recovered = Stage(name="recovered, 100 steps", cost=stages[1].cost, scores={"loss": 1.25, "GenEval": 0.6})
    write_report(tmp_path, plan, [*stages, recovered])
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert next(line for line in lines if line.startswith("| recovered, 100 steps |")).endswith("| 1.25 | 0.6 |")
    assert next(line for line in lines if line.startswith("| pruned |")).endswith("| 2.5 |  |")
    assert not any("Not recovered yet" in line for line in lines)


def test_the_numbers_are_strict_json(measured, tmp_path):
    plan, stages, importance = measured
    write_report(tmp_path, plan, stages, importance=importance)
    facts = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert facts["plan"]["kept"] == list(plan.kept)
    assert facts["importance"]["by_time"][0][1] is None  # nothing was measured from 200 to 400
    assert facts["importance"]["values"] == importance.values.tolist()
    assert facts["stages"][1]["scores"] == {"loss": 2.5}


def test_the_pictures_can_be_opened(measured, tmp_path):
    plan, _, importance = measured
    plot_importance(importance, tmp_path / "bars.png", removed=plan.removed)
    plot_importance_by_time(importance, tmp_path / "map.png")
    for name in ("bars.png", "map.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width > 400
            assert len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_blocks_that_do_nothing_can_be_drawn(tmp_path):
    blocks = nn.ModuleList([nn.Identity()])
    importance = block_importance(blocks, lambda: blocks[0](torch.ones(1, 2, 2)))
    plot_importance(importance, tmp_path / "bars.png")
    plot_importance_by_time(importance, tmp_path / "map.png")


def test_bad_requests_write_nothing(measured, tmp_path):
    plan, stages, _ = measured
    blocks = nn.ModuleList([nn.Identity()])
    other = block_importance(blocks, lambda: blocks[0](torch.ones(1, 2, 2)))
    with pytest.raises(ValueError, match="there are 1 stages"):
        write_report(tmp_path / "report", plan, stages[:1])
    with pytest.raises(ValueError, match="importance has 1 values"):
        write_report(tmp_path / "report", plan, stages, importance=other)
    assert not list(tmp_path.iterdir())


def test_shares_are_of_the_first_stage(tmp_path, measured):
    plan, _, _ = measured
    costs = [Cost(blocks=n, parameters=n * 10**6, flops=n * 10**9, seconds=n / 8) for n in (4, 1)]
    write_report(tmp_path, plan, [Stage(name=str(cost.blocks), cost=cost) for cost in costs])
    text = (tmp_path / "report.md").read_text()
    assert "| 4 | 4 | 4.0M | 4 | 0.5 |" in text
    assert "| 1 | 1 | 1.0M (25%) | 1 (25%) | 0.125 (25%) |" in text
