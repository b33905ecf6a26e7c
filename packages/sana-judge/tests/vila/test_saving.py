import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config

from sana_judge import Calibration, JudgeFacts, VILAJudge
from sana_judge.checkpoint_reading import read_weights
from sana_judge.vila.saving import save_model


@pytest.fixture
def saved(judge, tmp_path):
    judge.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_judge_gives_the_same_answers(judge, saved, images):
    again = VILAJudge.from_pretrained(saved)
    prompts = ["a red dog", "two cats"]
    for image in images:
        # The same weights through the same code.
        assert again.score_prompts(prompts, image) == judge.score_prompts(prompts, image)


def test_it_is_saved_in_its_own_dtype(nvila_tiny, tmp_path):
    VILAJudge.from_pretrained(nvila_tiny).save_pretrained(tmp_path)
    again = VILAJudge.from_pretrained(tmp_path)
    assert {weight.dtype for weight in again.model.parameters()} == {torch.float16}


def test_question_and_calibrations_are_saved(nvila_tiny, tmp_path):
    judge = VILAJudge.from_pretrained(nvila_tiny)
    judge.facts = JudgeFacts(
        question="{prompt}?", calibration=Calibration(scale=0.5), tasks={"counting": Calibration(offset=-1.0)}
    )
    judge.save_pretrained(tmp_path)
    assert VILAJudge.from_pretrained(tmp_path).facts == judge.facts


def test_the_licence_of_the_weights_survives_saving_and_other_facts(checkpoint, tmp_path):
    (checkpoint / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    with pytest.warns(UserWarning, match="not for commercial use"):
        judge = VILAJudge.from_pretrained(checkpoint)
    judge.facts = JudgeFacts(calibration=Calibration(scale=0.5))
    judge.save_pretrained(tmp_path / "trained")
    with pytest.warns(UserWarning, match=r"the weights of trained are licensed cc-by-nc-4\.0: not for commercial use"):
        assert VILAJudge.from_pretrained(tmp_path / "trained").facts.calibration.scale == 0.5


def test_a_task_has_its_own_calibration(nvila_tiny, images):
    judge = VILAJudge.from_pretrained(nvila_tiny, dtype=torch.float32)
    judge.facts = JudgeFacts(tasks={"counting": Calibration(scale=2.0, offset=-1.0)})
    (plain,), (counted,) = [judge.score("two dogs", images[:1], task=task) for task in (None, "counting")]
    assert plain.p_yes == Calibration()(plain.margin)
    assert counted.p_yes == Calibration(scale=2.0, offset=-1.0)(plain.margin)
    with pytest.raises(ValueError, match=r"'colors' has no calibration; the judge has \['counting'\]"):
        judge.score("two dogs", images[:1], task="colors")


@pytest.mark.parametrize(
    ("place", "layout"),
    [(".", "model.safetensors"), (".", "pytorch_model.bin.index.json"), ("llm", "model.safetensors.index.json")],
)
def test_a_judge_saved_over_another_layout_is_the_one_that_is_read(nvila_tiny, saved, images, place, layout):
    shard = saved / place / "model-00001-of-00001.safetensors"
    whole = read_weights(saved) if place == "." else load_file(saved / place / "model.safetensors")
    save_file(whole, saved / place / layout if layout == "model.safetensors" else shard)
    if layout != "model.safetensors":
        (saved / place / layout).write_text(json.dumps({"weight_map": dict.fromkeys(whole, shard.name)}))
    other = VILAJudge.from_pretrained(nvila_tiny, dtype=torch.float32)
    other.model.llm.model.norm.weight.data.zero_()  # every logit is then zero
    other.save_pretrained(saved)
    assert VILAJudge.from_pretrained(saved).score("a red dog", images[:1])[0].logit_yes == 0
    assert not shard.exists()


def test_large_weights_are_saved_in_several_files(judge, tmp_path, monkeypatch):
    monkeypatch.setattr("sana_judge.vila.saving._SHARD_SIZE", "100KB")
    judge.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("llm/model-*-of-*.safetensors"))) > 1
    loaded = VILAJudge.from_pretrained(tmp_path).model.state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in judge.model.state_dict().items())


def test_a_judge_is_published_with_the_licence_that_it_was_loaded_with(judge, monkeypatch):
    monkeypatch.setattr("sana_judge.vila.judge.upload", lambda folder, repo, *, licence, **options: licence)
    monkeypatch.setattr(judge, "facts", JudgeFacts(licence="cc-by-nc-4.0"))
    assert judge.push_to_hub("me/judge") == "cc-by-nc-4.0"
    assert judge.push_to_hub("me/judge", licence="other") == "other"


def test_a_folder_being_written_is_no_checkpoint(judge, saved, monkeypatch):
    def full(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr("sana_judge.vila.saving.save_file", full)
    with pytest.raises(OSError, match="No space"):
        judge.save_pretrained(saved)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        VILAJudge.from_pretrained(saved)
    assert not [path for path in saved.rglob("*") if path.name.endswith(".tmp")]


def test_parts_are_readable_by_both_generations_of_transformers(saved):
    language = json.loads((saved / "llm" / "config.json").read_text())
    assert language["rope_theta"] == 1e6
    assert "transformers_version" not in language
    tokenizer = json.loads((saved / "llm" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] != "TokenizersBackend"
    assert not isinstance(tokenizer.get("extra_special_tokens"), list)


def test_a_quantized_judge_cannot_be_saved(judge, tmp_path):
    packed = {"llm.model.layers.0.mlp.up_proj.weight": torch.zeros(2, 2, dtype=torch.int8)}
    with pytest.raises(ValueError, match="without quantize"):
        save_model(tmp_path / "saved", judge.model.config, packed)
    assert not (tmp_path / "saved").exists()


def test_a_configuration_that_names_no_rope_theta_is_saved_with_the_default(judge, tmp_path):
    fields = {**judge.model.config.language.to_dict()}
    for name in ("rope_parameters", "rope_theta", "rope_scaling"):
        fields.pop(name, None)
    plain = replace(judge.model.config, language=Qwen2Config(**fields))
    save_model(tmp_path, plain, judge.model.state_dict())
    assert json.loads((tmp_path / "llm" / "config.json").read_text())["rope_theta"] == 10_000
