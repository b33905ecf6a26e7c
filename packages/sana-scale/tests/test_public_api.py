import subprocess
import sys
from types import ModuleType

import pytest

import sana_scale


def test_all_is_exact_and_sorted():
    named = {name for name, value in vars(sana_scale).items() if not isinstance(value, ModuleType)}
    public = {name for name in named if not name.startswith("_")} - {"TYPE_CHECKING", "import_module", "version"}
    assert sorted(public | sana_scale._LOADED_LATE | {"__version__"}) == sana_scale.__all__
    assert all(getattr(sana_scale, name) is getattr(sana_scale.depth, name) for name in sana_scale._LOADED_LATE)


WITHOUT = """
import sys
sys.modules[{missing!r}] = None
from sana_scale import best_of_k_curve, best_of_n, plot_curve
try:
    {call}
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("missing", "call", "remedy"),
    [
        ("PIL", "best_of_n(lambda p, s: s, lambda p, i: i, 'a', n=1, run_dir='run')", "'sana-scale[images]'"),
        ("matplotlib", "plot_curve(best_of_k_curve([1.0, 2.0]), 'curve.png')", "'sana-scale[plots]'"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(missing, call, remedy, tmp_path):
    code = WITHOUT.format(missing=missing, call=call)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.strip().endswith(f"pip install {remedy}")
    assert list(tmp_path.iterdir()) == []


def test_a_search_loads_neither_torch_nor_numpy_nor_pillow():
    code = """
import sys
from sana_scale import best_of_n
print(best_of_n(lambda prompt, seeds: seeds, lambda prompt, images: images, "a", n=20).best.seed)
print([name for name in ("torch", "numpy", "PIL", "matplotlib") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["19", "[]"]
