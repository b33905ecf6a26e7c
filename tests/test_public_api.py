import sana


def test_all_is_exact_and_sorted():
    modules = {"pipeline", "pipeline_folder", "pixels", "prompts", "resolution", "stages", "version"}
    loaded_elsewhere = {"commands", "model_facts"}
    public = {name for name in vars(sana) if not name.startswith("_")} - modules - loaded_elsewhere
    assert sorted(public | {"__version__"}) == sorted(sana.__all__)
