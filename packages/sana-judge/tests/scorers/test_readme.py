"""The example of several judges runs on small checkpoints."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_example_of_several_judges_runs(
    clip_folder, image_reward_folder, vlm_folder, pictures, tmp_path, monkeypatch
):
    for number, picture in enumerate(pictures[:2]):
        picture.save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = next(example for example in examples if "RankMean" in example)
    for name, folder in {
        "openai/clip-vit-large-patch14": clip_folder,
        "THUDM/ImageReward": image_reward_folder,
        "Qwen/Qwen3-VL-2B-Instruct": vlm_folder,
    }.items():
        assert name in text
        text = text.replace(name, str(folder))
    names: dict[str, object] = {}
    exec(text, names)
    assert sum(names["values"]) == 1  # of two images, ranks are 0 and 1, or 0.5 each
