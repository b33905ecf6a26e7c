from types import ModuleType

import sana


def test_all_is_exact_and_sorted():
    named = {name for name, value in vars(sana).items() if not isinstance(value, ModuleType)}
    public = {name for name in named if not name.startswith("_")} - {"version"}
    assert sorted(public | {"__version__"}) == sorted(sana.__all__)
