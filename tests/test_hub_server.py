"""The Hub of the tests, tried with the `hf` command and huggingface_hub in processes of their own."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.hub.server import HubServer

HF = shutil.which("hf", path=str(Path(sys.executable).parent)) or shutil.which("hf")
CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def hub(tmp_path):
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def hf(hub, tmp_path):
    """Runs the `hf` command as a user of the Hub; `xet` chooses how large files travel."""

    def run(*arguments, xet=False, token=None, check=True):
        environment = os.environ | hub.environment(tmp_path / "home") | ({} if xet else {"HF_HUB_DISABLE_XET": "1"})
        environment |= {} if token is None else {"HF_TOKEN": token}
        done = subprocess.run([HF, *arguments], env=environment, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def folder(tmp_path):
    """A folder with a card, a small file and a large one."""
    path = tmp_path / "folder"
    (path / "vae").mkdir(parents=True)
    (path / "README.md").write_text("---\nlicense: apache-2.0\ntags: [sana]\n---\n# Card\n")
    (path / "vae" / "config.json").write_text("{}")
    (path / "vae" / "model.safetensors").write_bytes(CONTENT)
    return path


newer_client = pytest.mark.skipif(version("huggingface_hub") < "1", reason="0.34 has no Xet, and does not try again")


@pytest.mark.parametrize("xet", [False, pytest.param(True, marks=newer_client)], ids=["lfs", "xet"])
def test_what_is_uploaded_comes_back(hub, hf, folder, tmp_path, xet):
    if xet:
        pytest.importorskip("hf_xet", reason="needs hf_xet")
    hf("upload", "tester/model", str(folder), ".", xet=xet)
    hf("download", "tester/model", "--local-dir", str(tmp_path / "back"), xet=xet)
    assert (tmp_path / "back" / "vae" / "model.safetensors").read_bytes() == CONTENT
    assert (tmp_path / "back" / "README.md").read_text().startswith("---")
    assert bool(hub.large) != xet
    assert not [request for request in hub.requests if request.startswith("unknown") and "tester" in request]


def test_a_private_repository_is_hidden_from_others(hub, hf, folder, tmp_path):
    hf("upload", "tester/secret", str(folder), ".", "--private")
    assert hub.repositories["models", "tester/secret"].private
    refused = hf("download", "tester/secret", token="hf_other", check=False)
    assert refused.returncode != 0
    assert "secret" in refused.stdout + refused.stderr


def test_a_wrong_token_writes_nothing(hub, hf, folder):
    assert hf("upload", "tester/model", str(folder), ".", token="hf_other", check=False).returncode != 0
    assert not hub.repositories


@newer_client
def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub, hf, folder, tmp_path):
    content = CONTENT * 24  # 24 MiB: what has come is kept in blocks of 10 MB
    (folder / "vae" / "model.safetensors").write_bytes(content)
    hf("upload", "tester/model", str(folder), ".")
    hub.cut_downloads = 1
    hf("download", "tester/model", "--local-dir", str(tmp_path / "back"))
    assert hub.cut_downloads == 0
    assert any(int(asked.removeprefix("bytes=").split("-")[0]) > 0 for asked in hub.ranges)
    assert (tmp_path / "back" / "vae" / "model.safetensors").read_bytes() == content


LOAD = """
import time
from sana_dit.hub_download import download
time.sleep = lambda seconds: None  # between the tries of huggingface_hub
download("tester/model", None, ["*"])
"""


def test_after_a_break_the_next_process_fetches_only_what_had_not_come_whole(hub, hf, folder, tmp_path):
    def load():
        environment = os.environ | hub.environment(tmp_path / "home") | {"HF_HUB_DISABLE_XET": "1"}
        return subprocess.run(
            [sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, timeout=120
        )

    (folder / "vae" / "other.safetensors").write_bytes(CONTENT[::-1])
    hf("upload", "tester/model", str(folder), ".")
    broken = hashlib.sha256(CONTENT).hexdigest()
    hub.cut_downloads, hub.cut_only = 500, broken
    told = "the download of tester/model broke off (.+): call again; files that came whole are not fetched again"
    assert re.search(f"DownloadBrokeError: {told}", load().stderr)
    assert hub.downloads.keys() == hub.large.keys()
    hub.cut_downloads = 0
    hub.downloads.clear()
    done = load()
    assert done.returncode == 0, done.stderr
    assert hub.downloads == {broken: 1}


@newer_client
def test_a_download_through_xet_is_known_to_be_whole_until_it_is_not(hub, hf, folder, tmp_path):
    pytest.importorskip("hf_xet", reason="needs hf_xet")

    def load(*options, offline=False):
        variables = os.environ | hub.environment(tmp_path / "home") | ({"HF_HUB_OFFLINE": "1"} if offline else {})
        command = [sys.executable, *options, "-c", LOAD]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)

    hf("upload", "tester/model", str(folder), ".", xet=True)
    for offline in (False, False, True):
        loaded = load("-W", "error", offline=offline)
        assert loaded.returncode == 0, loaded.stderr
    (link,) = (tmp_path / "home").rglob("snapshots/*/vae/model.safetensors")
    content = bytearray(CONTENT)
    content[0] ^= 1
    link.resolve().chmod(0o644)
    link.resolve().write_bytes(content)
    assert "is damaged in the cache" in load(offline=True).stderr
    mended = load()
    assert (mended.returncode, "fetched again" in mended.stderr) == (0, True), mended.stderr
    assert link.read_bytes() == CONTENT


def test_an_upload_whose_connection_breaks_is_sent_again(hub, hf, folder):
    hub.cut_uploads = 1
    hf("upload", "tester/model", str(folder), ".")
    assert list(hub.uploads.values()) == [2]
    assert list(hub.large.values()) == [CONTENT]
