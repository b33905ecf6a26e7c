"""What `import sana_ae` offers."""

import subprocess
import sys
from types import ModuleType

import sana_ae


def test_all_is_exact():
    offered = {
        name
        for name, value in vars(sana_ae).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "version"
    }
    assert set(sana_ae.__all__) == offered | {"__version__"}
    assert len(sana_ae.__all__) == len(set(sana_ae.__all__))


def test_importing_needs_no_reference_implementation():
    code = "import sys; sys.modules['diffusers'] = sys.modules['transformers'] = None; import sana_ae"
    subprocess.run([sys.executable, "-c", code], check=True)
