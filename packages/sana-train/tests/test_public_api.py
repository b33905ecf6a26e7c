from types import ModuleType

import sana_train


def test_all_is_exact():  # its order is the linter's
    named = {name for name, value in vars(sana_train).items() if not isinstance(value, ModuleType)}
    public = {name for name in named if not name.startswith("_")} - {"version"}
    assert public | {"__version__"} == set(sana_train.__all__)
    assert len(sana_train.__all__) == len(set(sana_train.__all__))
