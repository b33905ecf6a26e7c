"""The examples of the README run."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from sana_ae import DCAE

README = Path(__file__).parents[1] / "README.md"


def test_the_first_example_runs_on_a_small_model_from_disk(make_model, tmp_path):
    make_model("sana", latent_channels=32).save_pretrained(tmp_path)
    example = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(example.replace("mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers", str(tmp_path)), names)
    assert names["latent"].shape == (1, 32, 8, 12)
    assert names["again"].shape == names["image"].shape


def test_the_example_of_checkpoints_runs_on_small_ones(make_model, tmp_path, monkeypatch):
    make_model("sana").save_pretrained(tmp_path / "pipe" / "vae")
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    make_model("f64c128").save_pretrained(tmp_path / "file")
    example = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[1]
    example = example.replace("Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers", str(tmp_path / "pipe"))
    file = tmp_path / "file" / "diffusion_pytorch_model.safetensors"
    example = example.replace("checkpoints/dc-ae-f64c128-in-1.0.safetensors", str(file))
    pushed = []
    monkeypatch.setattr("sana_ae.pretrained.upload", lambda folder, repo, **options: pushed.append((repo, options)))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"DCAE": DCAE}  # from the first example
    exec(example, names)
    assert names["ae"].config.compression == 64
    assert DCAE.from_pretrained(tmp_path / "my-autoencoder").config == names["ae"].config
    [(repo, options)] = pushed
    assert (repo, options["licence"], options["private"]) == ("me/my-autoencoder", "mit", True)


def test_the_training_example_makes_a_loss():
    example = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[-1]
    names: dict[str, Any] = {}
    exec(example, names)
    draws = SimpleNamespace(step=0)
    names["objective"](names["model"], {"images": torch.rand(1, 3, 64, 64) * 2 - 1}, draws).backward()
    names["optimizer"].step()
