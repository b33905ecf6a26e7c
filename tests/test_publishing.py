"""A folder to the Hub and back, on loopback; what may not be published is refused before anything is sent."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana.model_card import render_card
from sana.publication import card_problems, inspect_folder
from tests.hub.server import HubServer

CARD = "---\nlicense: apache-2.0\n---\n# A model\n\nIt draws.\n"


@pytest.fixture
def hub(tmp_path):
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def as_user(hub, tmp_path):
    """Runs a command as a user of the Hub with a cache of its own."""

    def run(*command, check=True, **environment):
        variables = os.environ | hub.environment(tmp_path / "home") | environment
        done = subprocess.run(
            [sys.executable, *command], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def folder(diffusers_folder, tmp_path):
    """A pipeline's folder of one's own, with a card."""
    path = tmp_path / "pipeline"
    shutil.copytree(diffusers_folder, path)
    (path / "README.md").write_text(CARD)
    return path


def publish(*arguments):
    return ("-c", "from sana.commands import app; app()", "publish", *map(str, arguments))


def test_a_pipeline_is_published_and_drawn_with_from_the_hub(hub, as_user, folder, tmp_path):
    shown = as_user(*publish(folder, "tester/tiny", "--dry-run")).stdout
    assert "transformer/diffusion_pytorch_model.safetensors" in shown
    assert "It draws." in shown
    assert not hub.repositories
    as_user(*publish(folder, "tester/tiny", "--private", "--tag", "v1"), HF_HUB_DISABLE_XET="1")
    repository = hub.repositories["models", "tester/tiny"]
    assert repository.private
    assert repository.tags["v1"] == repository.branches["main"]
    draw = (
        "from sana import SanaPipeline; import sys\n"
        "pipe = SanaPipeline.from_pretrained(sys.argv[1], revision=sys.argv[2] or None, device='cpu')\n"
        "print(pipe('a dog', [3], steps=2, binning=False, progress=False)[0].tobytes().hex()[:200])"
    )
    drawn = as_user("-c", draw, "tester/tiny", "v1").stdout
    assert drawn == as_user("-c", draw, str(folder), "").stdout
    assert as_user("-c", draw, "tester/tiny", "v1", HF_HUB_OFFLINE="1").stdout == drawn
    missing = as_user("-c", draw, "tester/tiny", "v9", check=False)
    assert "v9" in missing.stderr
    cached = next(
        path
        for path in (tmp_path / "home").rglob("diffusion_pytorch_model.safetensors")
        if path.parent.name == "transformer"
    )
    content = cached.resolve().read_bytes()
    cached.resolve().write_bytes(content[: len(content) // 2])
    mended = as_user("-c", draw, "tester/tiny", "v1")
    assert mended.stdout == drawn
    assert "fetched again" in mended.stderr
    assert cached.resolve().read_bytes() == content


def test_without_a_network_the_missing_file_and_the_way_out_are_named(hub, as_user):
    info = ("-c", "from sana.commands import app; app()", "info", "tester/nowhere")
    offline = as_user(*info, check=False, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2
    assert "hf download tester/nowhere" in offline.stderr
    absent = as_user(*info, check=False)
    assert absent.returncode == 2
    assert "tester/nowhere" in absent.stderr


def test_an_upload_that_breaks_off_leaves_nothing_and_goes_on(hub, as_user, folder):
    hub.refuse_uploads = 1
    broken = as_user(*publish(folder, "tester/tiny"), check=False, HF_HUB_DISABLE_XET="1")
    assert broken.returncode == 2
    assert "Publish again" in broken.stderr
    repository = hub.repositories["models", "tester/tiny"]
    assert repository.trees[repository.branches["main"]] == {}
    sent = hub.requests["upload"]
    as_user(*publish(folder, "tester/tiny"), HF_HUB_DISABLE_XET="1")
    # Two of three weight files may have arrived at the first try; all three have now, none twice but the refused one.
    assert hub.requests["upload"] - sent <= 3
    assert len(hub.large) == 3
    assert "transformer/config.json" in repository.trees[repository.branches["main"]]


def test_a_repository_with_other_files_is_left_alone_unless_told(hub, as_user, folder):
    as_user(*publish(folder, "tester/tiny"), HF_HUB_DISABLE_XET="1")
    (folder / "transformer" / "config.json").rename(folder / "transformer" / "renamed.json")
    refused = as_user(*publish(folder, "tester/tiny"), check=False, HF_HUB_DISABLE_XET="1")
    assert refused.returncode == 2
    assert "transformer/config.json" in refused.stderr
    as_user(*publish(folder, "tester/tiny", "--existing", "replace"), HF_HUB_DISABLE_XET="1")
    repository = hub.repositories["models", "tester/tiny"]
    tree = repository.trees[repository.branches["main"]]
    assert "transformer/renamed.json" in tree
    assert "transformer/config.json" not in tree


def test_a_wrong_token_is_told_how_to_log_in(as_user, folder):
    refused = as_user(*publish(folder, "tester/tiny"), check=False, HF_TOKEN="hf_other")
    assert refused.returncode == 2
    assert "hf auth login" in refused.stderr


def test_weights_that_are_not_finite_are_named(folder):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["proj_out.bias"][1] = torch.nan
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"model.safetensors has NaN or infinity in proj_out.bias"):
        inspect_folder(folder)


def test_everything_that_is_wrong_is_named_at_once(folder, tmp_path):
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "model.py").write_text("print()")
    (folder / "vae" / "config.json.tmp").write_text("{")
    (tmp_path / "outside").write_text("secret")
    (folder / "inside").symlink_to(tmp_path / "outside")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "hidden.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot be published") as error:
        inspect_folder(folder)
    for part in (
        "optimizer.pt may run code",
        "model.py is code",
        "tmp looks unfinished",
        "inside is a link",
        "damaged",
    ):
        assert part in str(error.value)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        ("# No header", "names no licence"),
        ("---\nlicense: other\n---\n", "license_name"),
        ("---\nlicense: mit\n---\nDrawn by $model.", r"\$model"),
        ("---\nlicense: mit\n---\n[More Information Needed]", "More Information Needed"),
        ("---\nlicense: mit\n---\n{{ what }}", "what"),
        ("---\nlicense: [mit\n---\n", "no YAML"),
    ],
)
def test_a_card_that_is_not_ready_is_refused(card, problem, folder):
    (folder / "README.md").write_text(card)
    with pytest.raises(ValueError, match=problem):
        inspect_folder(folder)


def test_a_folder_without_a_card_or_model_is_refused(folder, tmp_path):
    (folder / "README.md").unlink()
    with pytest.raises(ValueError, match=r"no README\.md"):
        inspect_folder(folder)
    with pytest.raises(FileNotFoundError, match="holds no model"):
        inspect_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        inspect_folder(tmp_path / "nowhere")


def test_a_card_is_made_of_what_the_files_say(folder, tmp_path):
    results = tmp_path / "table.json"
    results.write_text('{"benchmark": "GenEval", "tasks": {"colors": 0.5}, "overall": 0.5, "settings": {"images": 4}}')
    (folder / "transformer" / "growth.json").write_text('{"model": "abc"}')
    card = render_card(folder, "me/tiny", licence="mit", results=results, base_model="a/b")
    assert not list(card_problems(card))
    assert "| colors | 0.500 |" in card
    assert "images 4" in card
    assert "grown from weights with the hash `abc`" in card
    assert "Made from [a/b]" in card


def test_a_file_that_is_no_table_makes_no_card(folder, tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"tasks": 3}')
    with pytest.raises(ValueError, match=r"wrong.json is no table of results"):
        render_card(folder, "me/tiny", licence="mit", results=wrong)


def test_the_snippets_of_a_card_draw(folder, as_user, hub):
    card = render_card(folder, "tester/tiny", licence="mit")
    (folder / "README.md").write_text(card)
    as_user(*publish(folder, "tester/tiny"), HF_HUB_DISABLE_XET="1")
    snippets = [part.partition("```")[0] for part in card.split("```python\n")[1:]]
    assert len(snippets) == 2
    # Half precision of this tiny random model is of no interest, and slow on some processors.
    code = "\n".join(snippets).replace("torch.bfloat16", "torch.float32") + "\nassert image.size[0] > 0\n"
    as_user("-c", code)
