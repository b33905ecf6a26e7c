"""A folder to the Hub and back, on loopback, and the card that is made for it."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import diffusers
import pytest
import torch
from huggingface_hub import HfApi, constants, file_download, hf_hub_download
from huggingface_hub.utils import _http
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sana import SanaPipeline
from sana.commands import app
from sana.hub_absence import mend_cache
from sana.publishing.card_problems import card_problems
from sana.publishing.model_card import render_card
from sana.publishing.publication import inspect_folder
from sana.publishing.stated_facts import only_variant
from sana.publishing.upload import publish
from tests.hub.repositories import Repository
from tests.hub.server import HubServer

JUDGE = Path(__file__).parents[1] / "src" / "sana" / "embedded" / "judge"
CARD = "---\nlicense: apache-2.0\n---\n# A model\n\nIt draws.\n"


@pytest.fixture
def hub(tmp_path):
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def as_user(hub, tmp_path):
    """Runs a command as a user of the Hub with a cache of its own."""

    def run(*command, check=True, **environment):
        variables = os.environ | hub.environment(tmp_path / "home") | {"HF_HUB_DISABLE_XET": "1"} | environment
        done = subprocess.run(
            [sys.executable, *command], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def here(hub, tmp_path, monkeypatch):
    """Makes this process a user of the Hub with a cache of its own."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)  # of 0.34
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Use 'content=<...>'")  # httpx of huggingface_hub
        yield lambda repo: hub.repositories["models", repo]


def publishing(*arguments):
    return ("-c", "from sana.commands import app; app()", "publish", *map(str, arguments))


DRAW = (
    "from sana import SanaPipeline; import sys\n"
    "pipe = SanaPipeline.from_pretrained(sys.argv[1], revision=sys.argv[2] or None, device='cpu')\n"
    "print(pipe('a dog', [3], steps=2, binning=False, progress=False)[0].tobytes().hex()[:200])"
)


def test_a_pipeline_is_published_and_drawn_with_from_the_hub(hub, as_user, folder):
    shown = as_user(*publishing(folder, "tester/tiny", "--dry-run")).stdout
    assert "transformer/diffusion_pytorch_model.safetensors" in shown
    assert "It draws." in shown
    assert not hub.repositories
    assert shown in as_user(*publishing(folder, "tester/tiny", "--private", "--tag", "v1")).stdout
    repository = hub.repositories["models", "tester/tiny"]
    assert repository.private
    assert repository.tags["v1"] == repository.branches["main"]
    drawn = as_user("-c", DRAW, "tester/tiny", "v1").stdout
    assert drawn == as_user("-c", DRAW, str(folder), "").stdout
    assert as_user("-c", DRAW, "tester/tiny", "v1", HF_HUB_OFFLINE="1").stdout == drawn
    missing = as_user("-c", DRAW, "tester/tiny", "v9", check=False)
    assert "FileNotFoundError: tester/tiny has no revision 'v9'" in missing.stderr


def _flip(content):
    return content[:-5] + bytes([content[-5] ^ 0x7F]) + content[-4:]


@contextmanager
def _offline(monkeypatch):
    renew_sessions = getattr(_http, "reset_sessions", lambda: None)  # those of 0.34 stay what they were made as
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        renew_sessions()
        yield
    renew_sessions()


def _cached(repo, folder):
    """All files of a repository in the cache, by their names."""
    return {name: Path(hf_hub_download(repo, name)).resolve() for name in inspect_folder(folder).sizes}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", _flip),  # would load, and draw something else
        ("text_encoder/config.json", lambda content: content[:20]),
        ("model_index.json", lambda content: content[:20]),
    ],
)
def test_a_damaged_file_in_the_cache_is_fetched_again(here, folder, monkeypatch, name, damage):
    publish(inspect_folder(folder), "tester/tiny")
    path = _cached("tester/tiny", folder)[name]
    assert mend_cache("tester/tiny", "model_index.json") == []
    content = path.read_bytes()
    path.write_bytes(damage(content))
    with (
        _offline(monkeypatch),
        warnings.catch_warnings(action="error"),
        pytest.raises(OSError, match=f"{name} of tester/tiny is damaged"),
    ):
        mend_cache("tester/tiny", "model_index.json")
    with pytest.warns(UserWarning, match="fetched again"):
        assert mend_cache("tester/tiny", "model_index.json") == [name]
    assert path.read_bytes() == content


def test_a_cached_file_is_read_once(here, folder):
    publish(inspect_folder(folder), "tester/tiny")
    path = _cached("tester/tiny", folder)["transformer/config.json"]
    mend_cache("tester/tiny", "model_index.json")
    stamp = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(_flip(path.read_bytes()))
    os.utime(path, ns=stamp)  # as if nobody had touched it
    assert mend_cache("tester/tiny", "model_index.json") == []
    os.utime(path)
    with pytest.warns(UserWarning, match="fetched again"):
        assert mend_cache("tester/tiny", "model_index.json") == ["transformer/config.json"]


def test_without_a_network_the_missing_file_and_the_way_out_are_named(here, monkeypatch):
    absent = CliRunner().invoke(app, ["info", "tester/nowhere"])
    assert absent.exit_code == 2
    assert "the Hub shows no model 'tester/nowhere'" in absent.stderr
    native = CliRunner().invoke(app, ["info", "Efficient-Large-Model/SANA1.5_1.6B_1024px"])
    assert "did you mean 'sana-1.5-1.6b-1024'" in native.stderr
    with _offline(monkeypatch):
        offline = CliRunner().invoke(app, ["info", "tester/nowhere"])
    assert offline.exit_code == 2
    assert "hf download tester/nowhere" in offline.stderr


def test_a_token_that_has_expired_is_told_with_a_remedy_even_of_a_public_model(here, folder, monkeypatch):
    publish(inspect_folder(folder), "tester/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    told = "the Hub does not take this token for tester/tiny: `hf auth login`, or unset HF_TOKEN where the model is"
    refused = CliRunner().invoke(app, ["info", "tester/tiny"])
    assert refused.exit_code == 2
    assert told in refused.stderr
    with pytest.raises(PermissionError, match=told):
        SanaPipeline.from_pretrained("tester/tiny")


def test_a_revision_that_was_published_can_be_looked_at_and_drawn(here, folder, tmp_path):
    publish(inspect_folder(folder), "tester/tiny", tag="v1")
    card = "---\nlicense: other\nlicense_name: ours\nlicense_link: a.b/c\n---\nIt draws more.\n"
    publish(inspect_folder(folder, card=card), "tester/tiny", existing="update")
    old = CliRunner().invoke(app, ["info", "tester/tiny", "--revision", "v1"])
    assert "tester/tiny, revision v1, weights in float32" in old.stdout
    assert "licence of the weights: apache-2.0" in old.stdout
    assert "licence of the weights: ours (a.b/c)" in CliRunner().invoke(app, ["info", "tester/tiny"]).stdout
    draw = ["generate", "a dog", "--model", "tester/tiny", "--steps", "1", "--device", "cpu", "--json", "--no-progress"]
    drawn = CliRunner().invoke(app, [*draw, "--revision", "v1", "--out", str(tmp_path / "a.png")])
    assert json.loads(drawn.stdout)[0]["revision"] == "v1"
    wrong = CliRunner().invoke(app, [*draw, "--revision", "v9", "--out", str(tmp_path / "b.png")])
    assert "tester/tiny has no revision 'v9'" in wrong.stderr


def test_of_a_published_part_it_is_said_what_loads_it(here, folder):
    publish(inspect_folder(folder / "vae", card=CARD), "tester/part")
    for place in ("tester/part", str(folder / "vae")):
        told = CliRunner().invoke(app, ["info", place])
        assert told.exit_code == 2
        assert "sana_ae.DCAE.from_pretrained" in told.stderr


def test_an_upload_that_breaks_off_leaves_nothing_and_goes_on(hub, here, folder):
    hub.refuse_uploads = 1
    with pytest.raises(OSError, match="Publish again"):
        publish(inspect_folder(folder), "tester/tiny")
    repository = here("tester/tiny")
    assert repository.trees[repository.branches["main"]] == {}
    arrived = set(hub.large)
    assert 1 <= len(arrived) < 3
    publish(inspect_folder(folder), "tester/tiny")
    assert len(hub.large) == 3
    assert {hub.uploads[sha256] for sha256 in arrived} == {1}
    assert "transformer/config.json" in repository.trees[repository.branches["main"]]


def test_a_repository_with_other_files_is_left_alone_unless_told(here, folder):
    (folder / "transformer" / "notes.txt").write_text("ours")
    publish(inspect_folder(folder), "tester/tiny")
    (folder / "transformer" / "notes.txt").rename(folder / "transformer" / "renamed.txt")
    with pytest.raises(ValueError, match=r"transformer/notes\.txt"):
        publish(inspect_folder(folder), "tester/tiny")
    publish(inspect_folder(folder), "tester/tiny", existing="replace")
    repository = here("tester/tiny")
    tree = repository.trees[repository.branches["main"]]
    assert "transformer/renamed.txt" in tree
    assert "transformer/notes.txt" not in tree


@pytest.mark.parametrize("name", ["transformer/diffusion_pytorch_model.safetensors", "sana.json", "README.md"])
def test_another_model_under_the_same_names_is_refused(here, folder, name):
    (folder / "sana.json").write_text('{"pipeline": {"steps": 3}}')
    publish(inspect_folder(folder), "tester/tiny")
    repository = here("tester/tiny")
    published = repository.branches["main"]
    publish(inspect_folder(folder), "tester/tiny")  # the same model: nothing to do
    assert repository.branches["main"] == published
    content = (folder / name).read_bytes()
    changed = _flip(content) if name.endswith("s") else content.replace(b"3", b"4").replace(b"draws", b"drawn")
    (folder / name).write_bytes(changed)
    with pytest.raises(ValueError, match=rf"holds another model or version \({name}\)"):
        publish(inspect_folder(folder), "tester/tiny")
    assert repository.branches["main"] == published
    publish(inspect_folder(folder), "tester/tiny", existing="update")
    assert repository.branches["main"] != published


def test_an_update_leaves_no_old_weights_beside_the_new_ones(here, folder):
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    parts = [weights.with_stem(f"{weights.stem}-{part:05}-of-00002") for part in (1, 2)]
    for part in parts:
        shutil.copy(weights, part)
    index = {"weight_map": {"first": parts[0].name, "second": parts[1].name}}
    weights.with_suffix(".safetensors.index.json").write_text(json.dumps(index))
    weights.unlink()
    (folder / "notes.txt").write_text("ours")
    publish(inspect_folder(folder), "tester/tiny")
    for path in (folder / "notes.txt", *(folder / "transformer").glob("diffusion*")):
        path.unlink()
    weights.write_bytes(content)
    publish(inspect_folder(folder), "tester/tiny", existing="update")
    repository = here("tester/tiny")
    tree = repository.trees[repository.branches["main"]]
    left = {path for path in tree if path.startswith("transformer")}
    assert left == {"transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"}
    assert "notes.txt" in tree


def test_a_part_does_not_update_a_pipeline(here, folder):
    publish(inspect_folder(folder), "tester/tiny")
    repository = here("tester/tiny")
    published = repository.branches["main"]
    with pytest.raises(ValueError, match="tester/tiny holds a pipeline"):
        publish(inspect_folder(folder / "transformer", card=CARD), "tester/tiny", existing="update")
    assert repository.branches["main"] == published


def test_nothing_private_goes_to_a_public_repository(hub, here, folder):
    HfApi().create_repo("tester/tiny")
    with pytest.raises(ValueError, match="tester/tiny is public"):
        publish(inspect_folder(folder), "tester/tiny", private=True)
    assert not hub.uploads


def test_in_a_repository_of_somebody_else_nobody_is_told_to_change_settings(hub, here, folder):
    hub.repositories["models", "other/tiny"] = Repository("other/tiny", private=False)
    with pytest.raises(ValueError, match="other/tiny is public: make it private in its settings if it is yours"):
        publish(inspect_folder(folder), "other/tiny", private=True)
    with pytest.raises(PermissionError, match="hf auth login"):
        publish(inspect_folder(folder), "other/tiny", private=True, token="hf_other")
    with pytest.raises(PermissionError, match="does not let this token write to other/tiny"):
        publish(inspect_folder(folder), "other/tiny")


def test_a_tag_that_is_taken_is_refused_before_anything_is_sent(here, folder):
    publish(inspect_folder(folder), "tester/tiny", tag="v1")
    repository = here("tester/tiny")
    published = repository.branches["main"]
    better = inspect_folder(folder, card=CARD + "Better.\n")
    with pytest.raises(ValueError, match="already has a tag v1"):
        publish(better, "tester/tiny", tag="v1", existing="update")
    assert repository.branches["main"] == published


def test_a_wrong_token_is_told_how_to_log_in(here, folder):
    with pytest.raises(PermissionError, match="hf auth login"):
        publish(inspect_folder(folder), "tester/tiny", token="hf_other")


def test_without_any_token_it_is_said_that_there_is_none(here, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PermissionError, match="no token is set, and tester/tiny cannot be written without one"):
        publish(inspect_folder(folder), "tester/tiny")


def test_a_card_is_made_of_what_the_files_say(folder, tmp_path):
    results = tmp_path / "table.json"
    results.write_text('{"benchmark": "GenEval", "tasks": {"colors": 0.5}, "overall": 0.5, "settings": {"images": 4}}')
    (folder / "transformer" / "growth.json").write_text('{"model": "abc"}')
    card = render_card(folder, "me/tiny", licence="mit", results=results, base_model="a/b", training_data="Emoji.")
    assert not list(card_problems(card))
    assert "| colors | 0.500 |" in card
    assert "images 4" in card
    assert "grown from weights with the hash `abc`" in card
    assert "Made from [a/b]" in card
    assert "## Training data\n\nEmoji." in card
    assert "## Parity" in card


def test_a_card_names_the_parent_that_a_plan_was_made_for(folder):
    (folder / "pruning").mkdir()
    (folder / "pruning" / "plan.json").write_text('{"model": "abc"}')
    (folder / "pruning" / "parent.json").write_text('{"parent": "a/b"}')
    card = render_card(folder, "me/tiny", licence="mit")
    assert "pruned from [a/b](https://huggingface.co/a/b) (weights with the hash `abc`)" in card
    assert "base_model: a/b" in card


def test_a_mean_of_some_tasks_is_not_told_as_the_overall_score(folder, tmp_path):
    results = tmp_path / "table.json"
    results.write_text('{"tasks": {"colors": 0.5}, "overall": 0.5, "tasks_absent": ["position", "counting"]}')
    card = render_card(folder, "me/tiny", licence="mit", results=results)
    assert "| mean of 1 of 3 tasks, no GenEval score | 0.500 |" in card
    assert "overall" not in card


def test_the_card_of_a_sprint_model_has_no_flow_shift(sprint_folder):
    assert "flow shift" not in render_card(sprint_folder, "me/tiny", licence="mit")


def test_the_snippet_for_diffusers_is_in_the_type_of_the_weights(folder):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight.half() for name, weight in load_file(path).items()}, path)
    card = render_card(folder, "me/tiny", licence="mit")
    assert "torch_dtype=torch.float16" in card
    assert "pipe.vae.to(torch.bfloat16)" in card


@pytest.mark.parametrize(
    ("part", "loaded_by"), [("transformer", "SanaTransformer"), ("vae", "DCAE"), (JUDGE, "VILAJudge")]
)
def test_a_model_by_itself_gets_a_card_whose_snippets_load_it(here, folder, tmp_path, part, loaded_by):
    shutil.copytree(folder / part, tmp_path / "part", ignore=shutil.ignore_patterns("README.md"))
    card = render_card(tmp_path / "part", "tester/part", licence="mit", what="It is tried.")
    assert f"import {loaded_by}" in card
    assert "It is tried." in card
    publish(inspect_folder(tmp_path / "part", card=card), "tester/part")
    ours, *theirs = _snippets(card)
    exec(ours, {})
    for snippet in theirs:  # diffusers reads the Hub's address when it is imported
        exec(snippet.replace("tester/part", str(tmp_path / "part")), {})


def test_no_card_is_made_of_a_model_that_is_not_known(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet"}')
    with pytest.raises(ValueError, match="is that of a UNet"):
        render_card(tmp_path, "me/tiny", licence="mit")


def test_a_pruned_and_recovered_model_is_published_without_its_training_run(tmp_path, small_folder):
    (tmp_path / "prompts.txt").write_text("a dog\ntwo red apples\n")
    prune = ["prune", small_folder, tmp_path / "small", "--keep", 1, "--recover", 1, "--steps", 1, "--device", "cpu"]
    prune += ["--calibrate", tmp_path / "prompts.txt", "--no-progress"]
    done = CliRunner().invoke(app, [*map(str, prune)])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(app, ["publish", str(tmp_path / "small"), "me/small", "--license", "mit", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert f"pruned from `{small_folder.name}` (weights with" in shown.output
    sizes = inspect_folder(tmp_path / "small", card=CARD).sizes
    assert {name.split("/")[1] for name in sizes if name.startswith("pruning/")} == {
        "importance.png",
        "importance_by_time.png",
        "parent.json",
        "plan.json",
        "report.json",
        "report.md",
    }
    assert (tmp_path / "small.recovery" / "metrics.jsonl").is_file()


def test_a_file_that_is_no_table_makes_no_card(folder, tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"tasks": 3}')
    with pytest.raises(ValueError, match=r"wrong.json is not a table of results"):
        render_card(folder, "me/tiny", licence="mit", results=wrong)


def test_the_snippets_of_a_card_draw(folder, as_user, hub):
    card = render_card(folder, "tester/tiny", licence="mit")
    (folder / "README.md").write_text(card)
    as_user(*publishing(folder, "tester/tiny"))
    ours, theirs = _snippets(card)
    as_user("-c", f"{ours}\nassert image.size[0] > 0\n{theirs}\nassert image.size[0] > 0\n")


def _as_a_variant(folder):
    pipeline = diffusers.SanaPipeline.from_pretrained(folder).to(torch.float16)
    shutil.rmtree(folder)
    pipeline.save_pretrained(folder, variant="fp16")


def _in_three_steps(folder):
    (folder / "sana.json").write_text('{"pipeline": {"steps": 3}}')


@pytest.mark.parametrize(
    ("saved", "change", "told"),
    [
        ("small_folder", _as_a_variant, 'torch_dtype=torch.float16, variant="fp16")'),
        ("sprint_folder", _in_three_steps, ", intermediate_timesteps=None, num_inference_steps=3"),
    ],
)
def test_diffusers_is_told_what_it_cannot_know(request, tmp_path, saved, change, told):
    shutil.copytree(request.getfixturevalue(saved), tmp_path / "pipeline")
    change(tmp_path / "pipeline")
    ours, theirs = _snippets(render_card(tmp_path / "pipeline", "tester/tiny", licence="mit"))
    assert told in theirs
    for snippet in (ours, theirs):
        with warnings.catch_warnings(action="ignore"):  # diffusers' of float16 on a CPU
            exec(snippet.replace("tester/tiny", str(tmp_path / "pipeline")), {})


def test_a_part_that_is_there_as_a_variant_alone_is_loaded_as_one(folder):
    _as_a_variant(folder)
    _, theirs = _snippets(render_card(folder / "vae", "tester/part", licence="mit"))
    assert 'variant="fp16"' in theirs
    exec(theirs.replace("tester/part", str(folder / "vae")), {})
    assert only_variant(folder) == "fp16"
    shutil.copy(
        folder / "vae" / "diffusion_pytorch_model.fp16.safetensors",
        folder / "vae" / "diffusion_pytorch_model.safetensors",
    )
    assert only_variant(folder / "vae") is None


def _snippets(card):
    return [part.partition("```")[0] for part in card.split("```python\n")[1:]]
