import copy
import json
import shutil

import pytest
import torch
from diffusers import SanaTransformer2DModel
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sana import SanaPipeline
from sana.commands import app
from sana.growing import Growth, grow_checkpoint
from sana_dit import SANA_1_5_1_6B, SANA_1_5_4_8B, SanaConfig, SanaTransformer
from sana_dit.block import SanaBlock
from sana_dit.weights import to_diffusers
from sana_train import GrowthPlan, grow_depth
from sana_train.growth import INITS

TINY = SanaConfig(
    in_channels=4,
    out_channels=4,
    sample_size=4,
    caption_channels=8,
    num_layers=3,
    num_attention_heads=2,
    attention_head_dim=8,
    num_cross_attention_heads=2,
    cross_attention_head_dim=8,
    qk_norm=True,
)


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(app, ["grow", *map(str, arguments)])


@pytest.fixture
def transformer_folder(tmp_path):
    torch.manual_seed(0)
    SanaTransformer(TINY).save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def test_the_public_1_6b_grows_to_the_key_set_of_the_public_4_8b():
    with torch.device("meta"):
        model, deep = SanaTransformer(SANA_1_5_1_6B), SanaTransformer(SANA_1_5_4_8B)
        public = SanaTransformer2DModel(
            num_layers=60,
            num_attention_heads=70,
            num_cross_attention_heads=20,
            cross_attention_head_dim=112,
            cross_attention_dim=2240,
            qk_norm="rms_norm_across_heads",
        )
    grow_depth(model, 60, progress=False)
    written = to_diffusers(model.state_dict(), model.config)
    assert model.config == SANA_1_5_4_8B
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in deep.state_dict().items()}
    assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in public.state_dict().items()}


@pytest.mark.parametrize("init", INITS)
def test_the_real_block_proves_itself(init):
    _, plan = grow_depth(SanaTransformer(TINY), 7, drop_last=0, init=init, progress=False)
    assert (max(plan.change.values()) == 0) == plan.preserves


def test_leaving_the_cross_attention_in_is_noticed(monkeypatch):
    def without_cross_attention(block: SanaBlock) -> None:
        for projection in (block.self_attn.to_out, block.mix_ffn.point):
            for parameter in projection.parameters():
                torch.nn.init.zeros_(parameter)

    monkeypatch.setattr(SanaBlock, "zero_residuals", without_cross_attention)
    model = SanaTransformer(TINY)
    with pytest.raises(ValueError, match="must not change one bit"):
        grow_depth(model, 7, drop_last=0, progress=False)


def test_sprint_is_proved_with_its_guidance():
    config = SanaConfig(**{f: getattr(TINY, f) for f in TINY.__slots__} | {"guidance_embeds": True})
    _, plan = grow_depth(SanaTransformer(config), 5, drop_last=0, progress=False)
    assert plan.preserves
    assert max(plan.change.values()) == 0


def test_a_transformer_folder_becomes_a_deeper_one(transformer_folder, tmp_path):
    plan = grow_checkpoint(transformer_folder, tmp_path / "new", Growth(depth=7, drop_last=0), progress=False)
    # Copied, because matrix products round otherwise where a file leaves weights unaligned in memory.
    folders = (tmp_path / "new", transformer_folder)
    grown, source = (copy.deepcopy(SanaTransformer.from_pretrained(folder)) for folder in folders)
    inputs = (torch.randn(1, 4, 4, 4), torch.tensor([500.0]), torch.randn(1, 5, 8))
    assert grown.config.num_layers == len(grown.blocks) == 7
    assert torch.equal(grown(*inputs), source(*inputs))
    assert GrowthPlan.load(tmp_path / "new" / "growth.json") == plan


def test_diffusers_loads_what_was_grown(transformer_folder, tmp_path):
    grow_checkpoint(transformer_folder, tmp_path / "new", Growth(depth=7), progress=False)
    assert len(SanaTransformer2DModel.from_pretrained(tmp_path / "new").transformer_blocks) == 7


def test_a_pipeline_becomes_a_deeper_pipeline(small_folder, tmp_path):
    shutil.copytree(small_folder, tmp_path / "old")
    (tmp_path / "old" / "README.md").write_text("A card of the old model.")
    grow_checkpoint(tmp_path / "old", tmp_path / "new", Growth(depth=4, drop_last=0), progress=False)
    pictures = [
        SanaPipeline.from_pretrained(folder)(["a dog"], [3], steps=2, progress=False)[0]
        for folder in (small_folder, tmp_path / "new")
    ]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(
        ["growth.json", "parent.json", *(p.name for p in small_folder.iterdir())]
    )


@pytest.mark.parametrize("layout", ["safetensors", "pth"])
def test_a_single_file_of_either_layout_is_grown(transformer_folder, tmp_path, layout):
    model = SanaTransformer.from_pretrained(transformer_folder)
    model.save_pretrained(tmp_path / "one", layout="diffusers" if layout == "safetensors" else "native")
    (path,) = (p for p in (tmp_path / "one").iterdir() if p.suffix == f".{layout}")
    grow_checkpoint(path, tmp_path / "new", Growth(depth=5), progress=False)
    assert SanaTransformer.from_pretrained(tmp_path / "new").config.num_layers == 5


def test_a_plan_makes_the_same_files_again(transformer_folder, tmp_path):
    plan = grow_checkpoint(transformer_folder, tmp_path / "one", Growth(depth=7, seed=3), progress=False)
    grow_checkpoint(transformer_folder, tmp_path / "two", plan, progress=False)
    for name in ("diffusion_pytorch_model.safetensors", "growth.json", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_command_says_what_it_did(run, transformer_folder, tmp_path):
    result = run(transformer_folder, tmp_path / "new", "--depth", 7, "--drop-last", 0, "--init", "interleaved")
    assert result.exit_code == 0, result.output
    assert "3 blocks -> 7: 3 stay, 0 dropped, 4 new (interleaved, seed 0)" in result.output
    assert "max |dy| 0 in float32, 0 in bfloat16, measured now: the same function, bit for bit" in result.output


def test_the_command_prints_the_plan_as_json(run, transformer_folder, tmp_path):
    result = run(transformer_folder, tmp_path / "new", "--depth", 4, "--no-check", "--json", "--no-progress")
    printed = json.loads(result.stdout)
    assert printed["sources"] == [0, None, None, None]
    assert printed["change"] is None


def test_the_command_repeats_a_plan(run, transformer_folder, tmp_path):
    run(transformer_folder, tmp_path / "one", "--depth", 7, "--seed", 2)
    result = run(transformer_folder, tmp_path / "two", "--plan", tmp_path / "one" / "growth.json")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "one" / "growth.json").read_bytes() == (tmp_path / "two" / "growth.json").read_bytes()
    assert "measured when the plan was made" in result.output


def test_a_pipeline_is_not_grown_into_itself(run, small_folder, tmp_path):
    shutil.copytree(small_folder, tmp_path / "old")
    result = run(tmp_path / "old", tmp_path / "old" / "new", "--depth", 4)
    assert result.exit_code == 2
    assert "is inside" in result.stderr
    assert not (tmp_path / "old" / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depth", "3"], "depth is 3 and the model has 3 blocks"),
        (["--depth", "2"], "depth is 2 and the model has 3 blocks"),
        (["--depth", "7", "--drop-last", "3"], "drop_last is 3 and the model has 3 blocks; it must be 0 to 2"),
        ([], "--depth is missing"),
        (["--plan", "x.json", "--depth", "7"], "--depth given with --plan"),
        (["--plan", "missing.json"], "missing.json"),
    ],
)
def test_a_bad_option_is_one_line_and_writes_nothing(run, transformer_folder, tmp_path, arguments, message):
    result = run(transformer_folder, tmp_path / "new", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_plan_of_other_weights_writes_nothing(run, transformer_folder, tmp_path):
    grow_checkpoint(transformer_folder, tmp_path / "one", Growth(depth=7), progress=False)
    shutil.copy(tmp_path / "one" / "growth.json", tmp_path / "plan.json")
    torch.manual_seed(1)
    SanaTransformer(TINY).save_pretrained(tmp_path / "other")
    result = run(tmp_path / "other", tmp_path / "new", "--plan", tmp_path / "plan.json")
    assert result.exit_code == 2
    assert "the plan is for weights with the hash" in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_source_of_an_unknown_layout_says_which_are_known(run, tmp_path):
    save_file({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    result = run(tmp_path / "other.safetensors", tmp_path / "new", "--depth", 7)
    assert result.exit_code == 2
    assert "neither patch_embed.proj.weight (diffusers) nor x_embedder.proj.weight (NVlabs)" in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_source_with_missing_weights_names_them(run, transformer_folder, tmp_path):
    path = transformer_folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["transformer_blocks.1.ff.conv_point.weight"]
    save_file(weights, path)
    result = run(transformer_folder, tmp_path / "new", "--depth", 7)
    assert result.exit_code == 2
    assert "transformer_blocks.1.ff.conv_point.weight" in result.stderr


def test_a_destination_with_something_in_it_stays_as_it_is(run, transformer_folder, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("mine")
    result = run(transformer_folder, tmp_path / "new", "--depth", 7)
    assert result.exit_code == 2
    assert "already exists" in result.stderr
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine.txt"]


def test_a_disk_that_is_full_leaves_nothing(run, transformer_folder, tmp_path, monkeypatch):
    def full(self: GrowthPlan, path: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(GrowthPlan, "save", full)
    result = run(transformer_folder, tmp_path / "new", "--depth", 7)
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
