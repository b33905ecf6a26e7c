import dataclasses
import json

import pytest
import torch

from sana_train import GrowthPlan, grow_depth
from sana_train.growth import INITS, model_hash


@pytest.fixture
def grown(make_model):
    return grow_depth(make_model(4), 9, seed=5, progress=False)


@pytest.mark.parametrize("init", INITS)
def test_a_saved_plan_makes_the_same_model_again(make_model, tmp_path, init):
    model, plan = grow_depth(make_model(4), 9, init=init, seed=5, progress=False)
    plan.save(tmp_path / "growth.json")
    loaded = GrowthPlan.load(tmp_path / "growth.json")
    again = loaded.apply(make_model(4), progress=False)
    assert loaded == plan
    assert model_hash(again) == model_hash(model) == plan.grown


def test_a_plan_refuses_other_weights(make_model, grown):
    other = make_model(4)
    with torch.no_grad():
        other.blocks[0].out.bias += 1
    with pytest.raises(ValueError, match=f"weights with the hash {grown[1].model}, these have"):
        grown[1].apply(other)
    assert len(other.blocks) == 4


def test_a_plan_refuses_another_dtype(make_model, grown):
    with pytest.raises(ValueError, match="the same dtype"):
        grown[1].apply(make_model(4).bfloat16())


def test_a_plan_refuses_another_depth(make_model, grown):
    with pytest.raises(ValueError, match="a model of 4 blocks; this one has 3"):
        grown[1].apply(make_model(3))


def test_a_plan_refuses_to_make_other_blocks_than_it_did(make_model, grown):
    altered = dataclasses.replace(grown[1], seed=6)
    model = make_model(4)
    with pytest.raises(ValueError, match="draw other numbers"):
        altered.apply(model, progress=False)
    assert len(model.blocks) == model.config.num_layers == 4


def test_a_plan_tells_what_is_new_and_what_is_dropped(grown):
    plan = grown[1]
    assert (plan.staying, plan.new, plan.drop_last) == ((0, 1), tuple(range(2, 9)), 2)
    assert not plan.preserves


def test_a_plan_names_the_sources_in_order(grown):
    with pytest.raises(ValueError, match="each for the first time in this order"):
        dataclasses.replace(grown[1], sources=(1, 0, None, None, None))


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 2}', "not JSON"])
def test_another_file_is_no_plan(tmp_path, text):
    (tmp_path / "growth.json").write_text(text)
    with pytest.raises(ValueError, match=r"growth.json is not a growth plan"):
        GrowthPlan.load(tmp_path / "growth.json")


def test_unknown_fields_are_named(tmp_path, grown):
    grown[1].save(tmp_path / "growth.json")
    fields = json.loads((tmp_path / "growth.json").read_text()) | {"colour": 1}
    (tmp_path / "growth.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="missing or unknown: colour"):
        GrowthPlan.load(tmp_path / "growth.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("blocks", 5),
        ("sources", [0, 1, 2.0, None, None, None, None, None, None]),
        ("sources", "many"),
        ("seed", True),
        ("depth", "4"),
        ("change", "x"),
        ("change", 5),
        ("change", {"float32": "none"}),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path, grown, field, value):
    grown[1].save(tmp_path / "growth.json")
    fields = json.loads((tmp_path / "growth.json").read_text()) | {field: value}
    (tmp_path / "growth.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"is not a growth plan: {field} is "):
        GrowthPlan.load(tmp_path / "growth.json")


def test_a_deeply_nested_file_is_no_plan(tmp_path):
    (tmp_path / "growth.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"growth.json is not a growth plan"):
        GrowthPlan.load(tmp_path / "growth.json")


def test_a_plan_that_cannot_be_written_leaves_the_old_one(tmp_path, grown, monkeypatch):
    path = tmp_path / "growth.json"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        grown[1].save(path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("growth.json", "old")]
