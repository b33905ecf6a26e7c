"""The public checkpoints by name."""

import json

import pytest

from sana import SanaPipeline
from sana.catalog import CHECKPOINTS, find, locate, nearest, public_name
from sana.commands.info import info
from sana.commands.list_models import list_models
from sana.model_facts import model_facts
from sana_dit import SANA_1_5_4_8B


def test_a_name_stands_for_a_repository_and_its_revision():
    assert locate("sana-1.5-4.8b-1024") == ("Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers", "main")
    assert locate("sana-1.5-4.8b-1024", "v2") == ("Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers", "v2")
    assert locate("somebody/sana") == ("somebody/sana", None)


def test_a_folder_comes_before_the_catalog(tmp_path, monkeypatch):
    (tmp_path / "sana-1.6b-1024").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("sana-1.6b-1024") == ("sana-1.6b-1024", None)


def test_every_name_says_its_size_and_only_sprint_has_no_shift():
    pixels = {"512": 512, "1024": 1024, "2k": 2048, "4k": 4096}
    for checkpoint in CHECKPOINTS:
        assert next(pixels[part] for part in checkpoint.name.split("-") if part in pixels) == checkpoint.pixels
        assert (checkpoint.flow_shift is None) == ("sprint" in checkpoint.name)
        assert (checkpoint.pixels, checkpoint.pixels) in checkpoint.bins
    assert len({checkpoint.name for checkpoint in CHECKPOINTS}) == len(CHECKPOINTS)


@pytest.mark.parametrize(
    ("given", "meant"), [("sana-1.5-4.8b", "sana-1.5-4.8b-1024"), ("Embeded", "embedded"), ("zzz", None)]
)
def test_an_unknown_name_suggests_the_nearest(given, meant):
    assert nearest(given) == meant
    with pytest.raises(FileNotFoundError, match=f"did you mean '{meant}'" if meant else "give a pipeline folder"):
        SanaPipeline.from_pretrained(given)


def test_what_a_public_checkpoint_is_and_costs_is_known_without_its_files():
    facts = model_facts("sana-1.5-4.8b-1024")
    assert facts.components["transformer"].parameters == 4_721_825_952
    assert facts.components["text_encoder"].parameters == 2_614_341_888
    assert (facts.height, facts.steps, facts.flow_shift) == (1024, 20, 3.0)
    assert find("sana-1.5-4.8b-1024").config == SANA_1_5_4_8B


def test_info_says_where_a_checkpoint_is_and_how_it_may_be_used(capsys):
    info("sana-sprint-1.6b-1024")
    shown = capsys.readouterr().out
    checkpoint = find("sana-sprint-1.6b-1024")
    for part in (checkpoint.repository, "revision main", checkpoint.licence, "bfloat16", "size bins", "no flow shift"):
        assert part in shown
    facts = model_facts("embedded")
    assert (facts.dtype, facts.revision, facts.bins) == ("float16", None, None)
    assert facts.licence == "apache-2.0"


def test_a_configuration_that_means_nothing_is_named_with_its_file(folder):
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"more": 1}))
    with pytest.raises(ValueError, match=r"pipeline/transformer/config\.json has unknown fields \['more'\]"):
        model_facts(str(folder))


TEXT, OWN = "text_encoder/config.json", "text_encoder/sana.json"


@pytest.mark.parametrize(
    ("file", "fields", "told"),
    [
        (TEXT, {"num_hidden_layers": "20"}, r"does not describe a model that can be built \(.*TypeError"),
        (TEXT, {"hidden_size": "big"}, r"does not describe a model that can be built \(.*TypeError"),
        (TEXT, {"hidden_activation": "nonsense"}, "KeyError: 'nonsense'"),
        (TEXT, {"model_type": "nope"}, "Unrecognized model identifier: nope"),
        (TEXT, {"model_type": "clip"}, "does not describe a model that can be built"),  # it wants pictures
        (OWN, {"captions": 3}, "has 3 under 'captions', not an object"),
        (OWN, {"captions": {"max_tokens": "many"}}, "max_tokens is 'many'; it must be at least 2"),
        (OWN, {"captions": {"more": 1}}, r"has \['more'\] under 'captions'"),
        ("vae/config.json", {"latent_channels": 7}, "the last encoder stage has 16 channels and the latent 7"),
        ("transformer/sana.json", {"compat": "mine"}, "compat is 'mine'"),
    ],
)
def test_values_that_nothing_can_be_made_of_are_one_short_line_with_their_file(folder, file, fields, told):
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | fields))
    with pytest.raises(ValueError, match=told) as error:
        model_facts(str(folder))
    said = str(error.value).removeprefix(str(path))
    assert len(said) < min(260, len(str(error.value)))  # of a library's message no more than 200 characters
    assert "\n" not in said


@pytest.mark.parametrize(
    ("file", "fields", "told"),
    [
        ("sana.json", {"pipeline": 3}, "sana.json of .* has 3 under 'pipeline', not an object"),
        (
            "scheduler/scheduler_config.json",
            {"flow_shift": [1]},
            r"scheduler_config.json is \[1\]; it must be a positive number",
        ),
    ],
)
def test_facts_of_another_kind_than_they_have_are_refused(folder, file, fields, told):
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | fields))
    with pytest.raises(ValueError, match=told):
        model_facts(str(folder))


def test_what_is_on_this_machine_has_no_revisions(folder):
    for model in ("embedded", folder):
        with pytest.raises(ValueError, match=r"revision is 'v1', but .* is on this machine"):
            locate(model, "v1")


def test_a_hub_id_that_is_not_in_diffusers_layout_suggests_the_one_that_is():
    assert nearest("Efficient-Large-Model/SANA1.5_1.6B_1024px") == "sana-1.5-1.6b-1024"
    assert nearest("somebody/else") is None


def test_a_parent_is_named_without_telling_a_local_path(small_folder):
    assert public_name(small_folder) == small_folder.name
    assert public_name("sana-1.5-1.6b-1024") == "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"
    assert (public_name("embedded"), public_name("a/b")) == ("embedded", "a/b")


def test_the_command_lists_every_checkpoint(capsys):
    list_models()
    table = capsys.readouterr().out
    assert all(checkpoint.name in table and checkpoint.repository in table for checkpoint in CHECKPOINTS)
    list_models(as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [checkpoint.name for checkpoint in CHECKPOINTS]
    assert {row["compat"] for row in rows} == {"diffusers"}
