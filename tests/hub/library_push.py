"""Each library's own `push_to_hub` and what it refuses: `library_push.py STEP PIPELINE JUDGE`.

Run by a test as processes of their own, because huggingface_hub reads its address when it is imported.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import diffusers
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants, snapshot_download

import sana_dit.caption_files
import sana_dit.pretrained
import sana_judge.vila.saving
from sana_ae import DCAE
from sana_dit import CaptionEncoder, SanaTransformer
from sana_judge import VILAJudge

SPLITTING = (sana_dit.pretrained, sana_dit.caption_files, sana_judge.vila.saving)
NETWORKS: dict[type, Callable] = {
    SanaTransformer: lambda model: model,
    DCAE: lambda model: model,
    CaptionEncoder: lambda encoder: encoder.text_encoder,
    VILAJudge: lambda judge: judge.model,
}
REPOSITORIES = ("tester/transformer", "tester/autoencoder", "tester/captions", "tester/judge")


def models(pipeline: str, judge: str) -> Iterator[tuple]:
    """A model of every class that is published on its own, and a repository for it."""
    for kind, repo in zip(NETWORKS, REPOSITORIES, strict=True):
        yield kind.from_pretrained(judge if kind is VILAJudge else pipeline), repo


def shards(repo: str) -> list[str]:
    """Files of weights in parts, and their index."""
    return [name for name in HfApi().list_repo_files(repo) if "-of-" in name or "index.json" in name]


def pushed(pipeline: str, judge: str) -> None:
    """After weights in parts come weights in one file: they are what is loaded, and the parts are gone."""
    for module in SPLITTING:
        module._SHARD_SIZE = "20KB"
    api = HfApi()
    with TemporaryDirectory() as folder:  # DCAE itself writes one file only
        diffusers.AutoencoderDC.from_pretrained(f"{pipeline}/vae").save_pretrained(folder, max_shard_size="20KB")
        api.create_repo("tester/autoencoder", private=True)
        api.upload_folder(repo_id="tester/autoencoder", folder_path=folder)
    for model, repo in models(pipeline, judge):
        model.push_to_hub(repo, private=True, licence="mit")
        assert shards(repo) or isinstance(model, DCAE), repo
        assert ModelCard.load(repo).data.license == "mit"
    for module in SPLITTING:
        module._SHARD_SIZE = "5GB"
    for model, repo in models(pipeline, judge):
        network = NETWORKS[type(model)]
        with torch.no_grad():
            for weight in network(model).parameters():
                weight.fill_(0.25)
        model.push_to_hub(repo, licence="gemma")
        assert not shards(repo), shards(repo)
        loaded = network(type(model).from_pretrained(repo)).state_dict()
        assert all(torch.equal(weight, loaded[name]) for name, weight in network(model).state_dict().items()), repo
        card = ModelCard.load(repo)
        assert card.data.license == "gemma"
        assert f'from_pretrained("{repo}")' in card.text


def refused(pipeline: str, judge: str) -> None:
    """What must not be published sends nothing."""
    api = HfApi()
    for model, repo in models(pipeline, judge):
        api.create_repo(repo)
        with pytest.raises(ValueError, match=f"{repo} is public: make it private"):
            model.push_to_hub(repo, private=True)
        with pytest.raises(PermissionError, match=f"does not let this token write to {repo}"):
            model.push_to_hub(repo, private=True, token="hf_other")
        with pytest.raises(ValueError, match="other/model is public: make it private in its settings if it is yours"):
            model.push_to_hub("other/model", private=True)
        with pytest.raises(PermissionError, match="does not let this token write to other/model"):
            model.push_to_hub("other/model")
        assert api.list_repo_files(repo) in ([], [".gitattributes"])
        name, weight = next(iter(NETWORKS[type(model)](model).named_parameters()))
        weight.data.view(-1)[0] = float("nan")
        with pytest.raises(ValueError, match=f"{name} hold NaN"):
            model.push_to_hub("tester/broken")
        weight.data.view(-1)[0] = 0
        for words in ({"repo": "noslash"}, {"repo": "tester/broken", "licence": "nonsense!!"}):
            with pytest.raises(ValueError, match=r"owner/name|as the Hub spells it"):
                model.push_to_hub(**words)
        with pytest.raises(PermissionError, match="does not let this token write to tester/broken: log in with"):
            model.push_to_hub("tester/broken", token="hf_other")
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("HF_TOKEN")
            with pytest.raises(PermissionError, match="no token is set, and tester/broken cannot be written"):
                model.push_to_hub("tester/broken")
    assert not api.repo_exists("tester/broken")
    assert not api.repo_exists("tester/noslash")


def damaged(pipeline: str, judge: str) -> None:
    """A file of the cache that would load and be other weights is fetched again."""
    for model, repo in models(pipeline, judge):
        model.push_to_hub(repo)
        type(model).from_pretrained(repo)
        network = NETWORKS[type(model)]
        weights = max(Path(snapshot_download(repo)).rglob("*.safetensors"), key=lambda path: path.stat().st_size)
        with open(weights, "r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(bytes(100))
        with pytest.warns(UserWarning, match=f"{weights.name} of {repo} were damaged in the cache: fetched again"):
            loaded = network(type(model).from_pretrained(repo)).state_dict()
        assert all(torch.equal(weight, loaded[name]) for name, weight in network(model).state_dict().items()), repo


def expired(pipeline: str, judge: str) -> None:
    """With a token that is not valid any more the Hub shows nothing, public models neither."""
    for model, repo in models(pipeline, judge):
        model.push_to_hub(repo)
    os.environ["HF_TOKEN"] = "hf_expired"
    for kind, repo in zip(NETWORKS, REPOSITORIES, strict=True):
        told = f"the Hub does not take this token for {repo}: `hf auth login`, or unset HF_TOKEN where the model is"
        with pytest.raises(PermissionError, match=told):
            kind.from_pretrained(repo)


def cached(pipeline: str, judge: str) -> None:
    """A revision that is not there; afterwards the cache has only the configurations."""
    for model, repo in models(pipeline, judge):
        model.push_to_hub(repo)
        with pytest.raises(FileNotFoundError, match=f"{repo} has no revision 'v9': give a branch, tag or commit"):
            type(model).from_pretrained(repo, revision="v9")
        snapshot_download(repo, allow_patterns=["*.json"])


def gone(*_: str) -> None:
    """With no server: what the cache has in part, and what it has not."""
    for constants.HF_HUB_OFFLINE, why in ((False, "did not answer"), (True, "HF_HUB_OFFLINE is set")):
        for kind, repo in zip(NETWORKS, REPOSITORIES, strict=True):
            for name in (repo, "tester/never"):
                named = r" \(.*model\S*\.safetensors.*\)" if name == repo else ""
                lacking = rf"(lacks files of {name}{named}|no .+)\."  # older clients give what the cache has in part
                told = rf"{lacking} The Hub was not reached \(.*{why}\): load it once while online"
                with pytest.raises(FileNotFoundError, match=told):
                    kind.from_pretrained(name)


if __name__ == "__main__":
    steps = (pushed, refused, damaged, expired, cached, gone)
    {step.__name__: step for step in steps}[sys.argv[1]](*sys.argv[2:])
