import pytest
import torch
from torch import nn

from sana_train import Draws, FlowMatching
from sana_train.caption_padding import without_padding

TOKENS, CHANNELS = 60, 8


class Attending(nn.Module):
    """A velocity model whose image tokens attend to captions as SANA's do: a mask is a bias of -10000."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.kv, self.out = nn.Linear(4, 16), nn.Linear(CHANNELS, 32), nn.Linear(16, 4)

    def forward(self, latents, timestep, caption, caption_mask):
        keys, values = self.kv(caption).chunk(2, dim=-1)
        bias = (1 - caption_mask.float()) * -10000.0
        weights = (self.q(latents.flatten(2).mT) @ keys.mT + bias[:, None]).softmax(-1)
        return self.out(weights @ values).mT.reshape(latents.shape)


def batch(mask):
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(len(mask), 4, 3, 3, generator=generator),
        "caption": torch.randn(len(mask), TOKENS, CHANNELS, generator=generator),
        "caption_mask": mask,
        "key": [str(row) for row in range(len(mask))],
    }


def lengths(*counts):
    return torch.stack([torch.arange(TOKENS) < count for count in counts]).long()


def scattered():
    mask = lengths(0, 3)
    mask[0, 5], mask[0, 33] = 1, 1
    return mask


@pytest.mark.parametrize(
    ("mask", "kept"),
    [
        (lengths(3, 1), 16),
        (lengths(16, 16), 16),
        (lengths(17, 2), 32),
        (lengths(3, 49), TOKENS),
        (scattered(), 48),
        (lengths(3, 0), TOKENS),  # attends to all of its tokens alike
        (lengths(3, 21).bool(), 32),
        (lengths(3, 21) * 0.25, 32),
    ],
)
def test_captions_are_cut_after_the_last_token_that_counts(mask, kept):
    whole = batch(mask)
    found = without_padding(whole)
    assert torch.equal(found["caption"], whole["caption"][:, :kept])
    assert torch.equal(found["caption_mask"], mask[:, :kept])
    assert found["latents"] is whole["latents"]


@pytest.mark.parametrize("mask", [lengths(3, 21), scattered(), lengths(9, 1).bool(), lengths(0, 7)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_loss_and_gradients_are_those_of_whole_captions(mask, dropout):
    null = torch.randn(TOKENS, CHANNELS, generator=torch.Generator().manual_seed(2))
    objective = FlowMatching(caption_dropout=dropout, null_caption=null)
    results = []
    for given in (batch(mask), without_padding(batch(mask))):
        model = Attending()
        loss = objective(model, given, Draws(2, 0, range(2)))  # of these two captions, dropout 0.5 drops one
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    # A masked token's weight is exp(-10000) = 0: only the order of fp32 sums differs.
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_what_was_cut_off_is_not_held_in_memory():
    found = without_padding(batch(lengths(3, 1)))
    assert found["caption"].untyped_storage().nbytes() == 4 * 2 * 16 * CHANNELS


def test_batches_that_cannot_be_cut_are_left_alone():
    whole = batch(lengths(3, 1))
    others = (
        {"images": whole["latents"], "key": whole["key"]},
        whole | {"caption": whole["caption"][..., 0].long()},  # token ids, which a text encoder is yet to read
        whole | {"caption_mask": whole["caption_mask"][:, :7]},
        {name: entry[:0] for name, entry in whole.items()},
        whole | {"caption": whole["caption"][:, :0], "caption_mask": whole["caption_mask"][:, :0]},
        whole | {"caption": whole["caption"].to("meta"), "caption_mask": whole["caption_mask"].to("meta")},
    )
    assert all(without_padding(other) is other for other in others)
