"""The examples of the README run."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

README = Path(__file__).parents[1] / "README.md"


def test_the_first_example_runs_on_a_small_model_from_disk(make_model, tmp_path):
    make_model("sana", latent_channels=32).save_pretrained(tmp_path)
    example = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(example.replace("mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers", str(tmp_path)), names)
    assert names["latent"].shape == (1, 32, 8, 12)
    assert names["again"].shape == names["image"].shape


def test_the_training_example_makes_a_loss():
    example = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[-1]
    names: dict[str, Any] = {}
    exec(example, names)
    draws = SimpleNamespace(step=0)
    names["objective"](names["model"], {"images": torch.rand(1, 3, 64, 64) * 2 - 1}, draws).backward()
    names["optimizer"].step()
