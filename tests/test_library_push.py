"""What `push_to_hub` of each library leaves on the Hub, and what loading says when the Hub has nothing to give."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.repositories import Repository
from tests.hub.server import HubServer

ROOT = Path(__file__).parents[1]
JUDGE = ROOT / "packages" / "sana-judge" / "tests" / "fixtures" / "nvila-tiny"


@pytest.fixture
def run(small_folder, tmp_path):
    """Runs a step of the script as a user of a Hub."""

    def run(hub, step):
        variables = os.environ | hub.environment(tmp_path / "home") | {"HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, ROOT / "tests" / "hub" / "library_push.py", step, small_folder, JUDGE]
        done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("step", ["pushed", "refused"])
def test_the_last_push_is_what_everybody_loads_and_bad_ones_send_nothing(run, tmp_path, step):
    with HubServer(tmp_path / "hub") as hub:
        hub.repositories["models", "other/model"] = Repository("other/model", private=False)
        run(hub, step)


def test_a_damaged_cache_is_mended_by_whatever_loads_from_it(run, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        run(hub, "damaged")


def test_a_token_that_has_expired_is_said_by_every_loader(run, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        run(hub, "expired")


def test_what_cannot_be_had_says_why(run, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        run(hub, "cached")
    run(hub, "gone")
