"""What loading says of files that a Hub has or may have; no network is used."""

import pytest
from huggingface_hub import constants

from sana_dit import SanaTransformer


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def partial_cache(tmp_path, monkeypatch):
    """A repository of whose files the cache holds one."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("sana_dit.checkpoint_reading.snapshot_download", lambda *repo, **options: str(tmp_path))
    return "nobody/nothing"


def test_without_a_network_a_model_that_is_not_cached_says_what_to_do(offline):
    told = (
        r"lacks files of nobody/nothing\. The Hub was not reached \(HF_HUB_OFFLINE is set\): load it once while online"
    )
    with pytest.raises(FileNotFoundError, match=told):
        SanaTransformer.from_pretrained("nobody/nothing")


def test_what_is_missing_from_the_cache_may_be_on_a_hub_that_was_not_reached(offline, partial_cache):
    with pytest.raises(FileNotFoundError, match=r"no transformer in.*The Hub was not reached"):
        SanaTransformer.from_pretrained(partial_cache)


def test_what_a_hub_does_not_have_is_missing_without_more_words(partial_cache, monkeypatch):
    monkeypatch.setattr("sana_dit.hub_download.HfApi.model_info", lambda *repo, **options: None)
    with pytest.raises(FileNotFoundError, match=r"no transformer in(?!.*reached)"):
        SanaTransformer.from_pretrained(partial_cache)
