"""What `import sana_ae` offers."""

import subprocess
import sys
from types import ModuleType

import sana_ae
from sana_ae import training


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


def test_all_of_training_is_exact():
    offered = {
        name for name, value in vars(training).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert set(training.__all__) == offered
    assert list(training.__all__) == sorted(training.__all__, key=lambda name: (not name.isupper(), name))


def test_training_is_imported_where_it_is_used():
    code = "import sys, sana_ae; assert 'sana_ae.training' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
