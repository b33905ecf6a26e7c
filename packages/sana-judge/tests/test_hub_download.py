"""What loading says of files that a Hub has or may have; no network is used."""

import hashlib
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from sana_judge import VILAJudge
from sana_judge.hub_download import download


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def partial_cache(tmp_path, monkeypatch):
    """A repository of whose files the cache holds one."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("sana_judge.hub_download.snapshot_download", lambda *repo, **options: str(tmp_path))
    return "nobody/nothing"


def test_without_a_network_a_model_that_is_not_cached_says_what_to_do(offline):
    told = (
        r"lacks files of nobody/nothing\. The Hub was not reached \(HF_HUB_OFFLINE is set\): load it once while online"
    )
    with pytest.raises(FileNotFoundError, match=told):
        VILAJudge.from_pretrained("nobody/nothing")


def test_what_is_missing_from_the_cache_may_be_on_a_hub_that_was_not_reached(offline, partial_cache):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.*The Hub was not reached"):
        VILAJudge.from_pretrained(partial_cache)


def test_what_a_hub_does_not_have_is_missing_without_more_words(partial_cache, monkeypatch):
    monkeypatch.setattr("sana_judge.hub_download.HfApi.model_info", lambda *repo, **options: None)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer(?!.*reached)"):
        VILAJudge.from_pretrained(partial_cache)


def answered(status, kind=HfHubHTTPError):
    return kind(f"{status}", response=SimpleNamespace(status_code=status, headers={}, request=None))


REFUSALS = [answered(401), LocalEntryNotFoundError("it seems not to be there")]
REFUSALS[1].__cause__ = answered(403)  # as huggingface_hub tells of one
REFUSED = "the Hub does not take this token for nobody/nothing: `hf auth login`, or unset HF_TOKEN where"


@pytest.mark.parametrize("refusal", REFUSALS, ids=["401", "403"])
@pytest.mark.parametrize("asked", ["snapshot_download", "HfApi.model_info"])
def test_a_token_that_the_hub_does_not_take_is_named_with_a_remedy(partial_cache, monkeypatch, refusal, asked):
    def refuse(*repo, **options):
        raise refusal

    monkeypatch.setattr(f"sana_judge.hub_download.{asked}", refuse)
    with pytest.raises(PermissionError, match=REFUSED):
        VILAJudge.from_pretrained(partial_cache)


def test_a_model_that_the_hub_does_not_show_is_not_a_matter_of_the_token(monkeypatch):
    def refuse(*repo, **options):
        raise answered(401, RepositoryNotFoundError)

    monkeypatch.setattr("sana_judge.hub_download.snapshot_download", refuse)
    with pytest.raises(RepositoryNotFoundError):
        VILAJudge.from_pretrained("nobody/nothing")


@pytest.fixture
def cached_file(tmp_path, monkeypatch):
    """The one file of a cached repository, which a Hub has too: its content in the cache, and what fetches it again."""
    name = hashlib.sha256(b"whole").hexdigest()
    content, link = tmp_path / "blobs" / name, tmp_path / "snapshots" / "abc" / "model.bin"
    for path in (content, link):
        path.parent.mkdir(parents=True)
    content.write_bytes(b"whole")
    link.symlink_to(content)
    fetched = []

    def fetch(repo, name, *, revision, force_download):
        fetched.append((repo, name, revision, force_download))
        content.write_bytes(b"whole")

    monkeypatch.setattr("sana_judge.hub_download.snapshot_download", lambda *repo, **options: str(link.parent))
    monkeypatch.setattr("sana_judge.hub_download.hf_hub_download", fetch)
    return content, fetched


def test_a_damaged_file_in_the_cache_is_fetched_again(cached_file):
    content, fetched = cached_file
    content.write_bytes(b"whale")  # as long
    download("nobody/nothing", None, ["*.json"])  # this file is not among them
    with pytest.warns(UserWarning, match=r"model\.bin of nobody/nothing were damaged in the cache: fetched again"):
        folder = download("nobody/nothing", None, ["*.bin"])
    assert (folder / "model.bin").read_bytes() == b"whole"
    download("nobody/nothing", None, ["*.bin"])
    assert fetched == [("nobody/nothing", "model.bin", "abc", True)]


def test_a_damaged_file_that_cannot_be_fetched_is_named_with_a_remedy(cached_file, monkeypatch):
    def fail(*repo, **options):
        raise ValueError("offline")

    monkeypatch.setattr("sana_judge.hub_download.hf_hub_download", fail)
    cached_file[0].write_bytes(b"who")
    with pytest.raises(
        OSError, match=r"model\.bin of nobody/nothing is damaged in the cache .*load once with a network"
    ):
        download("nobody/nothing", None, ["*.bin"])


def test_a_damaged_file_that_the_hub_does_not_send_for_this_token_says_so(cached_file, monkeypatch):
    def refuse(*repo, **options):
        raise ValueError("Force download failed") from answered(401)

    monkeypatch.setattr("sana_judge.hub_download.hf_hub_download", refuse)
    cached_file[0].write_bytes(b"who")
    with pytest.raises(PermissionError, match=REFUSED):
        download("nobody/nothing", None, ["*.bin"])
