from sana_train.checkpointing.settings_changes import settings_changes


def test_nested_settings_are_named_by_their_path():
    then = {"data": {"seed": 0, "tau": 0.1, "crop": {"side": 8}}, "shift": 3.0, "gone": 1}
    now = {"data": {"seed": 1, "tau": 0.1, "crop": {"side": 9}}, "shift": 3.0, "new": None}
    assert settings_changes(then, now) == ["data.seed 0 -> 1", "data.crop.side 8 -> 9", "gone 1 -> None"]


def test_tables_are_counted_and_their_first_rows_named():
    then = {"data": {"shards": [[f"{n}.safetensors", 64, f"hash {n}"] for n in range(40)]}}
    now = {"data": {"shards": [[f"{n}.safetensors", 64, f"hash {n * (n > 3)}"] for n in range(1, 42)]}}
    assert settings_changes(then, now) == [
        "data.shards: 2 came, 1 went, 3 changed: 40.safetensors, 41.safetensors, 0.safetensors and 3 more"
    ]
    stamps = {"stamps": {name: [1, 2] for name in "abcd"}}
    assert settings_changes(stamps, {"stamps": stamps["stamps"] | {"c": [1, 3]}}) == ["stamps: 1 changed: c"]
    assert settings_changes({"t": [["a"], ["b"]]}, {"t": [["b"], ["a"]]}) == ["t: another order"]


def test_lists_that_are_no_tables_are_shown_and_long_values_cut():
    assert settings_changes({"betas": [0.9, 0.99]}, {"betas": [0.9, 0.95]}) == ["betas [0.9, 0.99] -> [0.9, 0.95]"]
    (words,) = settings_changes({"joined": [list(range(90))]}, {"joined": []})
    assert len(words) < 150
