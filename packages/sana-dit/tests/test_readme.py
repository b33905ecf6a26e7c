"""The examples of the README run, one after the other, on small checkpoints from disk."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

from sana_dit import CaptionEncoder, SanaConfig, SanaTransformer

README = Path(__file__).parents[1] / "README.md"
MODEL: dict[str, Any] = {
    "in_channels": 32,
    "out_channels": 32,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16,
    "caption_channels": 16,
}


@pytest.fixture
def checkpoints(tmp_path):
    """Folders and files in the place of those that the README names."""
    sana, sprint = (SanaTransformer(SanaConfig(**MODEL, guidance_embeds=is_sprint)) for is_sprint in (False, True))
    for name, model in (("sana", sana), ("sprint", sprint)):
        model.save_pretrained(tmp_path / name / "transformer")
        (tmp_path / name / "model_index.json").write_text("{}")
    sana.save_pretrained(tmp_path / "native", layout="native")
    CaptionEncoder(small_tokenizer(), Gemma2Model(GEMMA)).save_pretrained(tmp_path / "sana")
    query = "transformer.transformer_blocks.0.attn1.to_q.lora_"
    (tmp_path / "lora").mkdir()
    adapter = {f"{query}A.weight": torch.randn(2, 32), f"{query}B.weight": torch.randn(32, 2)}
    save_file(adapter, tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    return {
        "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": tmp_path / "sana",
        "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers": tmp_path / "sprint",
        "checkpoints/Sana_1600M_1024px.pth": tmp_path / "native" / "model.pth",
        "me/my-style": tmp_path / "lora",
    }


@pytest.mark.filterwarnings("ignore:a prompt is")
def test_all_examples_run_in_their_order(checkpoints, tmp_path, monkeypatch):
    text = README.read_text(encoding="utf-8")
    for name, path in checkpoints.items():
        assert name in text
        text = text.replace(name, str(path))
    text = text.replace(".cuda()", "").replace('"cuda"', '"cpu"')
    pushed = []
    monkeypatch.setattr("sana_dit.pretrained.upload", lambda folder, repo, **options: pushed.append(repo))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(example, names)
    assert names["latents"].shape == (1, 32, 32, 32)
    assert names["latents"].isfinite().all()
    assert names["model"].adapters == {"default": 1.0}
    assert pushed == ["me/my-sana"]


GEMMA = Gemma2Config(
    vocab_size=4,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    query_pre_attn_scalar=8,
    pad_token_id=0,
)


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Knows a cat."""
    words = {"<pad>": 0, "<bos>": 1, "<unk>": 2, "cat": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    special = {"bos_token": "<bos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
