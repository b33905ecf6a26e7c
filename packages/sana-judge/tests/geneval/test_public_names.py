import subprocess
import sys

import pytest

from sana_judge import geneval

PROBE = """
import sys
from sana_judge import geneval
metadata = {"tag": "single_object", "prompt": "a cat", "include": [{"class": "cat", "count": 1}]}
cat = geneval.Detection(name="cat", score=0.9, box=(0, 0, 9, 9))
assert geneval.score_detections(sys.argv[1], {
    f"{number:05}/samples/{index:05}.png": [cat] for number in range(3) for index in range(2)
}, metadata=[metadata | {"prompt": prompt} for prompt in sys.argv[2:]]).overall == 1
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_every_public_name_is_there():
    assert len(set(geneval.__all__)) == len(geneval.__all__)
    assert all(hasattr(geneval, name) for name in geneval.__all__)
    assert set(geneval._LOADED_LATE) < set(geneval.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Mask3Former'"):
        _ = geneval.Mask3Former


@pytest.mark.filterwarnings("default")
def test_made_detections_are_scored_without_torch(folder, metadata):
    prompts = [each["prompt"] for each in metadata]
    command = [sys.executable, "-W", "ignore", "-c", PROBE, str(folder), *prompts]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert not {"torch", "numpy", "PIL", "transformers"} & set(loaded.split())
