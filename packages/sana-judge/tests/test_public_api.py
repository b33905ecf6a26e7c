import subprocess
import sys

import sana_judge


def test_all_is_sorted_and_exact():
    assert sana_judge.__all__ == ["Detection", "Table", "Verdict", "__version__", "geneval"]
    assert all(hasattr(sana_judge, name) for name in sana_judge.__all__)


def test_importing_it_needs_nothing_outside_the_standard_library():
    probe = "import sys, sana_judge; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout
    assert not {"torch", "numpy", "PIL", "transformers"} & set(loaded.split())
