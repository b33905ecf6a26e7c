import dataclasses
import json
import math

import pytest

from sana_scale.depth import PrunePlan, calibration_hash

PLAN = PrunePlan(
    depth=4, kept=(0, 3), selector="listed", scores=(0.5, 0.1, 1e-9, 0.2), standard_errors=(0.1, 0.2, math.nan, 0.0),
    calibration=calibration_hash(["a cat"]), model="m", pruned="p",
)  # fmt: skip


def test_a_plan_comes_back_from_its_file(tmp_path):
    PLAN.save(tmp_path / "plan.json")
    again = PrunePlan.load(tmp_path / "plan.json")
    assert math.isnan(again.standard_errors[2])
    finite = {"standard_errors": (0.1, 0.2, 0.3, 0.0)}
    assert dataclasses.replace(again, **finite) == dataclasses.replace(PLAN, **finite)


def test_the_file_is_strict_json(tmp_path):
    PLAN.save(tmp_path / "plan.json")
    fields = json.loads((tmp_path / "plan.json").read_text(), parse_constant=pytest.fail)
    assert fields["standard_errors"][2] is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "kept": [0]}', '{"format": 1, "depth": 1, "other": 1}'],
)
def test_a_file_that_is_no_plan_is_refused_by_name(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json is not a pruning plan"):
        PrunePlan.load(path)


@pytest.mark.parametrize("change", [{"kept": [3, 0]}, {"kept": []}, {"kept": [0, 4]}, {"scores": [1]}, {"kept": None}])
def test_a_plan_that_was_edited_wrongly_is_refused(tmp_path, change):
    path = tmp_path / "plan.json"
    PLAN.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="is not a pruning plan"):
        PrunePlan.load(path)


def test_the_hash_of_a_calibration_does_not_depend_on_the_order_of_keys():
    assert calibration_hash({"seeds": [1], "steps": 20}) == calibration_hash({"steps": 20, "seeds": [1]})
    assert calibration_hash(["a", "b"]) != calibration_hash(["b", "a"])
    with pytest.raises(TypeError, match="what JSON can hold"):
        calibration_hash({"prompts": {"a"}})
