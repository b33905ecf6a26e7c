"""Models of every class to a Hub and back, here and in diffusers: `round_trip.py PIPELINE_FOLDER LORA_FOLDER`.

Run by a test as a process of its own, because huggingface_hub reads its address when it is imported.
"""

import sys

import diffusers
import numpy as np
import torch
from huggingface_hub import HfApi

import sana_dit.pretrained
from sana import SanaPipeline
from sana_ae import DCAE
from sana_dit import SanaTransformer

SETTINGS = {"height": 64, "width": 64}


def same(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models have the same weights under the same names."""
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def push_and_pull(model, cls, repo: str, theirs: type[diffusers.ModelMixin], reference: str) -> None:
    """Publishes a model privately, changes it, publishes it again, and loads both revisions."""
    first = model.push_to_hub(repo, private=True).rpartition("/")[2]
    assert same(cls.from_pretrained(repo), model)
    assert same(theirs.from_pretrained(repo), theirs.from_pretrained(reference))
    before = cls.from_pretrained(repo)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.push_to_hub(repo)
    assert same(cls.from_pretrained(repo), model)
    assert same(cls.from_pretrained(repo, revision=first), before)


def draw_with_diffusers(repo: str) -> np.ndarray:
    """A picture of the pipeline as diffusers draws it, without a size bin."""
    pipe = diffusers.SanaPipeline.from_pretrained(repo)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(3)
    (image,) = pipe(
        "a dog", generator=generator, num_inference_steps=2, use_resolution_binning=False, **SETTINGS
    ).images
    return np.asarray(image).astype(int)


def main(folder: str, lora: str) -> None:
    """Goes through all of it."""
    pipe = SanaPipeline.from_pretrained(folder, device="cpu")
    pipe.push_to_hub("tester/pipeline", licence="mit", private=True)
    drawn = pipe("a dog", [3], steps=2, progress=False)[0]
    again = SanaPipeline.from_pretrained("tester/pipeline", device="cpu")
    assert np.array_equal(again("a dog", [3], steps=2, progress=False)[0], drawn)
    assert np.abs(draw_with_diffusers("tester/pipeline") - np.asarray(drawn)).max() <= 1  # of 255: rounding

    api = HfApi()
    api.create_repo("tester/lora", private=True)
    api.upload_folder(repo_id="tester/lora", folder_path=lora)
    assert pipe.load_lora("tester/lora") == "tester/lora"
    by_hub = pipe("a dog", [3], steps=2, progress=False)[0]
    again.load_lora(lora)
    assert np.array_equal(again("a dog", [3], steps=2, progress=False)[0], by_hub)
    assert not np.array_equal(by_hub, drawn)

    sana_dit.pretrained._SHARD_SIZE = "20KB"  # of 180 KB; an autoencoder is always one file
    fresh = SanaPipeline.from_pretrained(folder, device="cpu")
    transformers = (SanaTransformer, "tester/transformer", diffusers.SanaTransformer2DModel, f"{folder}/transformer")
    push_and_pull(fresh.transformer, *transformers)
    shards = [name for name in api.list_repo_files("tester/transformer") if name.endswith(".safetensors")]
    assert len(shards) > 3, shards
    push_and_pull(fresh.autoencoder, DCAE, "tester/autoencoder", diffusers.AutoencoderDC, f"{folder}/vae")


if __name__ == "__main__":
    main(*sys.argv[1:])
