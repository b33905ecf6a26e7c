"""What `import sana_dit` offers."""

import subprocess
import sys
from types import ModuleType

import sana_dit


def test_all_is_sorted_and_exact():
    offered = {
        name
        for name, value in vars(sana_dit).items()
        if not name.startswith("_") and not (isinstance(value, ModuleType) and name != "ops")
    }
    assert set(sana_dit.__all__) == offered - {"version"} | {"__version__"}  # importlib's function, and its result
    assert len(sana_dit.__all__) == len(set(sana_dit.__all__))
    assert sana_dit.__all__ == sorted(sana_dit.__all__, key=_constants_first)


def test_ops_all_is_sorted_and_exact():
    offered = {name for name, value in vars(sana_dit.ops).items() if callable(value) and not name.startswith("_")}
    assert sana_dit.ops.__all__ == sorted(offered)


def test_importing_needs_no_optional_package():
    code = "import sys; sys.modules['transformers'] = None; sys.modules['diffusers'] = None; import sana_dit"
    subprocess.run([sys.executable, "-c", code], check=True)


def _constants_first(name):
    return (not name.isupper(), not name[0].isupper(), name)
