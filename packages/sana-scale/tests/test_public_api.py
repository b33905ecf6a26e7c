import subprocess
import sys

import sana_scale


def test_all_is_exact_and_sorted():
    public = {name for name in vars(sana_scale) if not name.startswith("_")} - {"protocols", "version"}
    assert sorted(public | {"__version__"}) == sorted(sana_scale.__all__)


def test_importing_it_loads_neither_torch_nor_pillow():
    code = "import sys, sana_scale; print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
