"""Against BLIP and its text encoder written out plainly, over the released names."""

import pytest
import torch
from torch.nn import functional as F
from transformers.models.blip.configuration_blip import BlipTextConfig, BlipVisionConfig

from sana_judge.scorers.image_reward_network import ImageRewardNetwork, build_network, rename

MED = {"vocab_size": 42, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MED["max_position_embeddings"] = 40


@pytest.fixture(scope="module")
def network(image_reward_weights, tmp_path_factory):
    vocabulary = len(image_reward_weights["blip.text_encoder.embeddings.word_embeddings.weight"])
    return build_network(image_reward_weights, {**MED, "vocab_size": vocabulary}, tmp_path_factory.getbasetemp())


def attend(query, key, value, heads, mask=None):
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def plain_reward(weights, pixels, tokens, mask):
    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, name, eps):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    eye, mind = "blip.visual_encoder", "blip.text_encoder"
    patches = F.conv2d(
        pixels, weights[f"{eye}.patch_embed.proj.weight"], weights[f"{eye}.patch_embed.proj.bias"], stride=8
    )
    x = torch.cat([weights[f"{eye}.cls_token"].expand(len(pixels), -1, -1), patches.flatten(2).mT], dim=1)
    x = x + weights[f"{eye}.pos_embed"]
    for block in (f"{eye}.blocks.{number}" for number in range(2)):
        query, key, value = linear(norm(x, f"{block}.norm1", 1e-6), f"{block}.attn.qkv").chunk(3, dim=-1)
        x = x + linear(attend(query, key, value, 2), f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    seen = norm(x, f"{eye}.norm", 1e-6)

    x = F.embedding(tokens, weights[f"{mind}.embeddings.word_embeddings.weight"])
    x = x + weights[f"{mind}.embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = norm(x, f"{mind}.embeddings.LayerNorm", 1e-12)
    for layer in (f"{mind}.encoder.layer.{number}" for number in range(2)):
        for name, context, allowed in (("attention", None, mask[:, None, None].bool()), ("crossattention", seen, None)):
            source = x if context is None else context
            query = linear(x, f"{layer}.{name}.self.query")
            key, value = (linear(source, f"{layer}.{name}.self.{part}") for part in ("key", "value"))
            read = linear(attend(query, key, value, 2, allowed), f"{layer}.{name}.output.dense")
            x = norm(x + read, f"{layer}.{name}.output.LayerNorm", 1e-12)
        wide = F.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(x + linear(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm", 1e-12)
    x = x[:, 0]
    for place in (0, 2, 4, 6, 7):
        x = linear(x, f"mlp.layers.{place}")
    return (x[:, 0] - 0.16717362830052426) / 1.0333394966054072


def test_it_computes_what_blip_and_the_mlp_compute(network, image_reward_weights):
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32, generator=draw)
    tokens, mask = torch.randint(5, 40, (3, 7), generator=draw), torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    with torch.no_grad():
        rewards, expected = network(pixels, tokens, mask), plain_reward(image_reward_weights, pixels, tokens, mask)
    assert rewards.std() > 0.1
    # float32 rounds to 6e-8; the five linear layers and four blocks pass some thousand roundings on.
    assert torch.allclose(rewards, expected, atol=1e-4)


def test_padding_changes_nothing(network):
    draw = torch.Generator().manual_seed(1)
    pixels, tokens = torch.randn(1, 3, 32, 32, generator=draw), torch.randint(5, 40, (1, 6), generator=draw)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        assert torch.allclose(network(pixels, tokens, mask), network(pixels, tokens[:, :4], mask[:, :4]), atol=1e-5)


def test_the_released_sizes_make_the_released_file():
    vision = BlipVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224
    )
    text = BlipTextConfig(
        vocab_size=30524, hidden_size=768, encoder_hidden_size=1024, num_attention_heads=12, is_decoder=True
    )
    with torch.device("meta"):
        network = ImageRewardNetwork(vision, text)
    numbers = sum(weight.numel() for weight in network.parameters())
    unused = 256 * (1024 + 1) + 256 * (768 + 1)  # BLIP's two projections
    # ImageReward.pt has 1,786,880,927 bytes: 4 for each number, 4096 of position_ids, and a name and an entry in the
    # archive, of 300 to 400 bytes, for each of the 625 tensors.
    assert 300 < (1_786_880_927 - 4 * (numbers + unused) - 4096) / (len(network.state_dict()) + 5) < 400


def test_weights_that_do_not_fit_are_named(image_reward_weights, tmp_path):
    vocabulary = len(image_reward_weights["blip.text_encoder.embeddings.word_embeddings.weight"])
    med = {**MED, "vocab_size": vocabulary}
    fewer = {name: weight for name, weight in image_reward_weights.items() if name != "mlp.layers.7.bias"}
    with pytest.raises(ValueError, match=r"are missing: mlp\.7\.bias"):
        build_network(fewer, med, tmp_path)
    with pytest.raises(ValueError, match=r"are unknown: blip\.itm_head\.weight"):
        build_network({**image_reward_weights, "blip.itm_head.weight": torch.zeros(1)}, med, tmp_path)
    with pytest.raises(ValueError, match="have another shape"):
        build_network(image_reward_weights, {**med, "intermediate_size": 65}, tmp_path)
    with pytest.raises(ValueError, match="is not a checkpoint of ImageReward"):
        build_network({"other": torch.zeros(1)}, med, tmp_path)


def test_only_what_the_reward_needs_is_kept(image_reward_weights):
    left = {name for name in image_reward_weights if name not in rename({name: image_reward_weights[name]})}
    kept = rename(image_reward_weights)
    assert left
    assert not [name for name in kept if "proj." in name and "projection" not in name]
