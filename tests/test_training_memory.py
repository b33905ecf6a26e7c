from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from sana.training.memory import StepShape, _peaks, activation_bytes, forward_flops
from sana_dit import SANA_1_5_1_6B, SanaConfig, SanaTransformer
from sana_train import TrainConfig

CONFIG = SanaConfig(
    num_layers=5,
    num_attention_heads=4,
    num_cross_attention_heads=2,
    cross_attention_head_dim=64,
    in_channels=4,
    out_channels=4,
    caption_channels=32,
)
SHAPE = StepShape(samples=2, height=8, width=8, tokens=10)
TRAIN = TrainConfig(run_dir="runs", steps=1)


def count(train=TRAIN, config=CONFIG, shape=SHAPE, dtype=torch.float32):
    return activation_bytes(config, shape, train=train, dtype=dtype)


def saved_bytes(config):
    """What autograd really keeps of a forward pass with values, without the weights."""
    model = SanaTransformer(config)
    kept = {}
    with saved_tensors_hooks(lambda x: kept.setdefault(x.untyped_storage().data_ptr(), x), lambda x: x):
        model(torch.randn(2, 4, 8, 8), torch.rand(2), torch.randn(2, 10, 32), torch.ones(2, 10))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    return sum(x.untyped_storage().nbytes() for pointer, x in kept.items() if pointer not in weights)


def test_the_peak_is_a_little_more_than_what_autograd_keeps():
    kept = saved_bytes(CONFIG)
    # What is alive for a moment is at most that of one block, of which there are five.
    assert kept < count() < 1.5 * kept


def test_each_block_adds_the_same():
    config = replace(CONFIG, num_layers=4)
    assert count(config=config) == max(_peaks(config, SHAPE, TRAIN, torch.float32))


def test_checkpointing_keeps_only_the_inputs_of_blocks():
    train = replace(TRAIN, activation_checkpointing=True)
    per_block = (count(train, replace(CONFIG, num_layers=30)) - count(train, replace(CONFIG, num_layers=20))) / 10
    assert per_block == 2 * 64 * CONFIG.width * 4  # (B, N, D) in fp32


def test_autocast_adds_bf16_copies_of_the_weights():
    large = replace(CONFIG, num_attention_heads=32, cross_attention_head_dim=512)
    one = StepShape(samples=1, height=1, width=1, tokens=1)
    added = count(replace(TRAIN, precision="bf16"), large, one) - count(config=large, shape=one)
    with torch.device("meta"):
        blocks = sum(weight.numel() for weight in SanaTransformer(large).blocks.parameters() if weight.ndim == 2)
    assert added == pytest.approx(2 * blocks, rel=0.1)


def test_a_forward_pass_costs_two_flops_per_weight_and_token():
    with torch.device("meta"):
        model = SanaTransformer(SANA_1_5_1_6B)
    tokens, caption = 1024, 300
    cross = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if "cross_attn.to_k" in name or "cross_attn.to_v" in name or name.startswith("caption")
    )
    rest = sum(weight.numel() for weight in model.parameters()) - cross
    flops = forward_flops(SANA_1_5_1_6B, StepShape(samples=9, height=32, width=32, tokens=caption))
    # The attentions come on top: 2% of it, at this size; the time embedding is once a sample, not a token.
    assert flops == pytest.approx(2 * (rest * tokens + cross * caption), rel=0.05)
