"""The example of a detector runs on small checkpoints."""

import json
import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_example_of_the_detector_runs(folder, metadata, mask2former_folder, clip_folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    Path("evaluation_metadata.jsonl").write_text("".join(json.dumps(each) + "\n" for each in metadata))
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = next(example for example in examples if "Mask2FormerDetector" in example).replace(', device="cuda"', "")
    for name, small in {
        "facebook/mask2former-swin-small-coco-instance": mask2former_folder,
        "openai/clip-vit-large-patch14": clip_folder,
    }.items():
        assert name in text
        text = text.replace(name, str(small))
    names: dict[str, object] = {}
    exec(text, names)
    assert set(names["table"].tasks) == {"single_object", "colors", "counting"}
