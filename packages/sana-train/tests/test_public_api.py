import sana_train


def test_all_is_exact_and_sorted():
    modules = {"checkpoint", "config", "draws", "ema", "flow_matching", "objective", "trainer"}
    public = {name for name in vars(sana_train) if not name.startswith("_")} - modules - {"version"}
    assert sorted(public | {"__version__"}) == sorted(sana_train.__all__)
