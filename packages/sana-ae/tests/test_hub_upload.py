"""Uploads, as far as the border to huggingface_hub; the way to a Hub and back is tested with all libraries."""

from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard

from sana_ae.hub_upload import check_finite, upload

CARD = "---\ntags: [sana]\n---\n# A model\n"


@pytest.fixture
def hub(monkeypatch):
    """What a Hub has of one repository, and what came."""
    state = SimpleNamespace(private=True, pipeline=False, card=None, made=[], uploads=[])

    class Api:
        def __init__(self, token):
            assert token == "t"

        def create_repo(self, repo, *, private, exist_ok):
            assert exist_ok
            state.made.append(repo)

        def model_info(self, repo):
            return SimpleNamespace(private=state.private)

        def file_exists(self, repo, name):
            return state.pipeline if name == "model_index.json" else state.card is not None

        def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
            files = {path.name: path.read_text() for path in folder_path.iterdir()}
            state.uploads.append((repo_id, files, delete_patterns))
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr("sana_ae.hub_upload.HfApi", Api)
    monkeypatch.setattr(ModelCard, "load", lambda repo, token: ModelCard(state.card))
    return state


@pytest.fixture
def push(tmp_path):
    """Uploads a folder of one file."""
    (tmp_path / "model.safetensors").write_text("weights")

    def push(*, repo="me/model", licence=None, private=True):
        return upload(
            tmp_path, repo, card=CARD, weights=("model*",), licence=licence, private=private, token="t"
        )  # fmt: skip

    return push


def test_a_new_repository_gets_weights_and_a_card_with_their_licence(hub, push):
    assert push(licence="mit") == "https://hub/commit"
    [(repo, files, deleted)] = hub.uploads
    assert (repo, sorted(files), deleted) == ("me/model", ["README.md", "model.safetensors"], ["model*"])
    card = ModelCard(files["README.md"])
    assert (card.data.license, card.data.tags, card.text.strip()) == ("mit", ["sana"], "# A model")


@pytest.mark.parametrize("licence", [None, "mit"])
def test_of_a_card_that_is_there_only_the_licence_changes(hub, push, licence):
    hub.card = "---\nlicense: other\ntags: [mine]\n---\n# Mine\n"
    push(licence=licence)
    [(_, files, _)] = hub.uploads
    assert ("README.md" in files) is (licence is not None)
    if licence:
        card = ModelCard(files["README.md"])
        assert (card.data.license, card.data.tags, card.text.strip()) == ("mit", ["mine"], "# Mine")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"repo": "noslash"}, "repo is 'noslash'; a Hub id is owner/name"),
        ({"repo": "me/a..b"}, "Cannot have -- or .."),
        ({"licence": "nonsense!!"}, "licence is 'nonsense!!'; give it as the Hub spells it"),
        ({"licence": ""}, "licence is ''; give it as"),
    ],
    ids=str,
)
def test_words_that_the_hub_cannot_know_make_no_repository(hub, push, words, told):
    with pytest.raises(ValueError, match=told):
        push(**words)
    assert hub.made == []


def test_nothing_meant_to_be_private_goes_to_a_public_repository(hub, push):
    hub.private = False
    with pytest.raises(ValueError, match="me/model is public: make it private in its settings"):
        push()
    assert not hub.uploads
    push(private=False)
    assert hub.uploads


def test_weights_that_are_not_finite_are_named():
    weights = {name: torch.full((2,), float("inf")) for name in "abcd"} | {"e": torch.ones(2), "f": torch.ones(2).int()}
    check_finite({name: weights[name].to(torch.float8_e5m2) if name == "e" else weights[name] for name in "ef"})
    with pytest.raises(ValueError, match="a, b, c and 1 more hold NaN or infinity"):
        check_finite(weights)


def test_a_part_is_not_put_beside_a_pipeline_where_nobody_would_load_it(hub, push):
    hub.pipeline = True
    with pytest.raises(ValueError, match="me/model holds a pipeline, whose parts lie in folders"):
        push()
    assert hub.uploads == []
