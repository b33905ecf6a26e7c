from sana_judge import training


def test_all_is_sorted_and_complete():
    assert training.__all__ == sorted(training.__all__)
    public = {name for name, value in vars(training).items() if not name.startswith("_") and hasattr(value, "__doc__")}
    modules = {
        name
        for name in public
        if hasattr(getattr(training, name), "__path__") or type(getattr(training, name)).__name__ == "module"
    }
    assert public - modules == set(training.__all__)
