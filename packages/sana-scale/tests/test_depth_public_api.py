import subprocess
import sys
from types import ModuleType

import sana_scale.depth


def test_all_is_exact_and_sorted():
    public = {
        name
        for name, value in vars(sana_scale.depth).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert sorted(public) == sana_scale.depth.__all__


def test_without_torch_the_remedy_is_said():
    code = "import sys; sys.modules['torch'] = None; import sana_scale; import sana_scale.depth"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "sana_scale.depth needs torch: pip install 'sana-scale[depth]'" in result.stderr
