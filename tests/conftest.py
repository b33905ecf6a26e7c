"""What the tests of the whole share: the recipes, which are run from the repository's root and never installed."""

import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.pop("HF_HUB_ENABLE_HF_TRANSFER", None)  # huggingface_hub warns of it when it is imported
os.environ.pop(
    "GITHUB_ACTIONS", None
)  # with each of these three typer, when it is imported, puts colours into messages
os.environ.pop("FORCE_COLOR", None)
os.environ.pop("PY_COLORS", None)

import pytest
import torch
from transformers import AutoTokenizer, Gemma2Config, Gemma2Model

import sana
from sana_train import write_shard

CAPTION_CHANNELS = 16


def tiny_components(sample_size: int, *, sprint: bool = False, channels: int = 8) -> dict[str, torch.nn.Module]:
    """The parts of a random diffusers pipeline, f32 like the real ones."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(Path(sana.__file__).parent / "embedded" / "tokenizer")
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=CAPTION_CHANNELS,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            query_pre_attn_scalar=8,
        )
    )
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=CAPTION_CHANNELS,
        sample_size=sample_size,
        qk_norm="rms_norm_across_heads",
        guidance_embeds=sprint,
    )
    vae = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=channels,
        attention_head_dim=8,
        encoder_block_types=("ResBlock",) * 4 + ("EfficientViTBlock",) * 2,
        decoder_block_types=("ResBlock",) * 4 + ("EfficientViTBlock",) * 2,
        encoder_block_out_channels=(8, 8, 8, 16, 16, max(16, channels)),
        decoder_block_out_channels=(8, 8, 8, 16, 16, max(16, channels)),
        encoder_layers_per_block=(1, 1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1, 1),
        encoder_qkv_multiscales=((), (), (), (), (5,), (5,)),
        decoder_qkv_multiscales=((), (), (), (), (5,), (5,)),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    if sprint:
        scheduler = diffusers.SCMScheduler(prediction_type="trigflow", sigma_data=0.5)
    parts = {"tokenizer": tokenizer, "text_encoder": text_encoder, "vae": vae}
    return parts | {"transformer": transformer, "scheduler": scheduler}


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message and no table is wrapped, whatever terminal the tests run in."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="session")
def diffusers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Sana pipeline of 512 px (the smallest public size) that diffusers made and saved."""
    folder = tmp_path_factory.mktemp("diffusers-512")
    pytest.importorskip("diffusers").SanaPipeline(**tiny_components(16)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same at 64 px, a size that has no bins."""
    folder = tmp_path_factory.mktemp("diffusers-64")
    pytest.importorskip("diffusers").SanaPipeline(**tiny_components(2)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sprint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Sprint pipeline of 1024 px, the only size that diffusers lets it have."""
    folder = tmp_path_factory.mktemp("diffusers-sprint")
    pytest.importorskip("diffusers").SanaSprintPipeline(**tiny_components(32, sprint=True)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def public_pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two public names with tiny pipelines, which have the 32 latent channels of those."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("hub") / "Efficient-Large-Model"
    flow, sprint = (tiny_components(32, sprint=sprint, channels=32) for sprint in (False, True))
    diffusers.SanaPipeline(**flow).save_pretrained(folder / "SANA1.5_1.6B_1024px_diffusers")
    diffusers.SanaSprintPipeline(**sprint).save_pretrained(folder / "Sana_Sprint_1.6B_1024px_diffusers")
    return folder


@pytest.fixture
def folder(diffusers_folder: Path, tmp_path: Path) -> Path:
    """That of 512 px as a folder of one's own, with a card."""
    path = tmp_path / "pipeline"
    shutil.copytree(diffusers_folder, path)
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n\nIt draws.\n")
    return path


TINY_RUN = """
[train]
run_dir = "run"
steps = 4
warmup_steps = 2
log_every = 1
checkpoint_every = 4

[model]
in_channels = 4
out_channels = 4
sample_size = 2
caption_channels = 8
num_layers = 2
num_attention_heads = 2
attention_head_dim = 8
num_cross_attention_heads = 2
cross_attention_head_dim = 8

[optimizer]
kind = "came8bit"
lr = 1e-3

[objective]
caption_dropout = 0.0

[data]
shards = "data"
batch_size = 4
"""


@pytest.fixture
def tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run file in the current folder that trains a tiny transformer for four steps on a shard of eight samples."""
    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    write_shard(
        "data/0.safetensors",
        torch.randn(8, 4, 2, 2, generator=draw),
        torch.randn(8, 5, 8, generator=draw),
        torch.ones(8, 5, dtype=torch.bool),
        keys=[f"sample {number}" for number in range(8)],
        scaling_factor=0.5,
    )
    (tmp_path / "run.toml").write_text(TINY_RUN)
    return tmp_path / "run.toml"
