"""Memory, work and traffic that documentation tells and that follow from shapes: `python -m benchmarks.counts`.

Counted for one image in bfloat16 on the meta device, which holds no numbers; half a minute on any processor. Memory is
what `benchmarks.ledger` finds alive, so without weights and what libraries of convolutions take. Bytes moved are those
of each tensor that an operation or a kernel is given or returns, once: the state of a head, which many programs of a
kernel read, stays in the cache. Diffusers' row and the numbers of Triton kernels are left out where these are not
installed.
"""

import argparse
from importlib.util import find_spec
from math import ceil, isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floors import count_autoencoder, counted
from benchmarks.ledger import Ledger, WholeNorms
from benchmarks.machine import RESULTS, describe, write_result
from benchmarks.references import CAPTION_TOKENS, HAS_DIFFUSERS
from sana_ae import DC_AE_F32C32_SANA, DCAE, DCAEConfig
from sana_ae.training import recompute_blocks
from sana_dit import SANA_1_6B, SanaConfig, linear_attention
from sana_dit.block import SanaBlock

COUNTS = RESULTS / "counts.json"
SIDE, TILES = 1024, (None, 1024, 512)  # pixels
SUMMED_TOKENS = 256  # that the fused linear attention sums into one state before it adds up states


def main() -> None:
    """Counts everything and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=COUNTS, help="JSON file to write")
    out, machine = parser.parse_args().out, describe(torch.device("cpu"))
    result = {"benchmark": "counts on the meta device", "date": machine["date"], "device": "meta"}
    result |= {"versions": machine["versions"], "dtype": "bfloat16"}
    with torch.device("meta"):
        result["decode"] = [row for pixels in (2048, 4096) for row in count_decode(DC_AE_F32C32_SANA, pixels)]
        result["training"] = count_training(DC_AE_F32C32_SANA, SIDE)
        if HAS_DIFFUSERS:
            result["decode_beside_diffusers"] = count_both_decodes(DC_AE_F32C32_SANA, SIDE)
        result["block"] = count_block(SANA_1_6B, tokens=(SIDE // 32) ** 2)
        result["linear_attention"] = count_traffic(SANA_1_6B, tokens=(SIDE // 32) ** 2)
    print(*(f"{name}: {counts}" for name, counts in result.items()), sep="\n")
    print(write_result(result, "counts", out))


def count_decode(config: DCAEConfig, pixels: int) -> list[dict[str, Any]]:
    """Returns memory and work of decoding an image, whole and in tiles."""
    model, rows = DCAE(config).eval().to(torch.bfloat16), []
    z = torch.empty(_latent(config, pixels), dtype=torch.bfloat16)
    for tile in TILES:
        with torch.no_grad(), FlopCounterMode(display=False) as work, WholeNorms(), Ledger() as ledger:
            model.decode(z, tile=tile, progress=False)
        rows.append({"pixels": pixels, "tile": tile, "peak_bytes": ledger.peak, "flops": work.get_total_flops()})
    return [row | {"work": row["flops"] / rows[0]["flops"]} for row in rows]


def count_training(config: DCAEConfig, pixels: int) -> dict[str, int]:
    """Returns the bytes that a reconstruction keeps for its gradient, also with `recompute_blocks`.

    That keeps what goes from block to block, and at any time what one block keeps that is computed again.
    """
    x = torch.empty(1, config.in_channels, pixels, pixels, dtype=torch.bfloat16)
    plain, recomputing = (DCAE(config).to(torch.bfloat16) for _ in range(2))
    recompute_blocks(recomputing)
    ledger, before, inside = Ledger(), dict[nn.Module, int](), list[int]()
    for stage in (*plain.encoder.down_blocks, *plain.decoder.up_blocks):
        for block in stage.children():
            block.register_forward_pre_hook(lambda block, _: before.update({block: ledger.alive}))
            block.register_forward_hook(lambda block, _, y: inside.append(ledger.alive - before[block] - y.nbytes))
    kept, between, largest = _kept(plain, x, ledger), _kept(recomputing, x, Ledger()), max(inside)
    return {
        "pixels": pixels,
        "kept_bytes": kept,
        "kept_recomputing_bytes": between + largest,
        "kept_between_blocks_bytes": between,
        "largest_block_bytes": largest,
    }


def _kept(model: nn.Module, x: Tensor, ledger: Ledger) -> int:
    with WholeNorms(), ledger:
        y = model(x)
    assert y.requires_grad  # what its gradient needs lives as long as y does
    return ledger.alive


def count_both_decodes(config: DCAEConfig, pixels: int) -> dict[str, float]:
    """Returns the work of decoding an image, ours and diffusers'."""
    from diffusers import AutoencoderDC

    z = torch.empty(_latent(config, pixels))
    theirs = AutoencoderDC(**config.to_dict()).eval()
    flops, flops_diffusers = count_autoencoder(config, z.shape, "decode"), counted(lambda: theirs.decode(z))
    return {"pixels": pixels, "flops": flops, "flops_diffusers": flops_diffusers, "less": 1 - flops / flops_diffusers}


def count_block(config: SanaConfig, *, tokens: int) -> dict[str, int]:
    """Returns the work of a block of the transformer with a full caption, and of the linear attention in it."""
    block, side = SanaBlock(config), isqrt(tokens)
    x, caption = (torch.empty(1, length, config.width) for length in (tokens, CAPTION_TOKENS))
    modulation, heads = torch.empty(1, 6, config.width), config.num_attention_heads
    flops = counted(lambda: block(x, modulation, caption, height=side, width=side))
    return {
        "tokens": tokens,
        "flops": flops,
        "flops_linear_attention": counted(lambda: linear_attention(x, x, x, num_heads=heads)),
    }


def count_traffic(config: SanaConfig, *, tokens: int) -> list[dict[str, Any]]:
    """Returns the bytes that linear attention moves for an element of q: plain PyTorch, and the Triton kernels."""
    rows: list[dict[str, Any]] = []
    q, k, v = (torch.empty(1, tokens, config.width, dtype=torch.bfloat16) for _ in "qkv")
    heads = config.num_attention_heads
    for norm in (None, torch.empty(config.width, dtype=torch.bfloat16)):
        with torch.no_grad(), WholeNorms(), Ledger() as ledger:
            linear_attention(q, k, v, num_heads=heads, q_norm=norm, k_norm=norm)
        row = {"tokens": tokens, "norms": norm is not None, "plain_bytes": ledger.moved / q.numel()}
        if find_spec("triton"):
            row["fused_bytes"] = fused_bytes(q, k, v, norm, heads=heads) / q.numel()
        rows.append(row)
    return rows


def fused_bytes(q: Tensor, k: Tensor, v: Tensor, norm: Tensor | None, *, heads: int) -> int:
    """Returns the bytes of all tensors that the kernels of linear attention are given, and of adding up its states."""
    from sana_dit.ops.linear_attention.fused import forward_launch, scales_launch, state_launch
    from sana_dit.ops.tiles import tiles_of

    tiles, dim = tiles_of(q.device), q.shape[2] // heads
    scales = torch.empty(q.shape[:2] if norm is not None else (0,))
    parts = torch.empty(ceil(q.shape[1] / SUMMED_TOKENS), len(q), heads, dim + 1, dim)
    states, out = torch.empty(parts.shape[1:]), torch.empty_like(v)
    launches = [scales_launch(x, scales, eps=0.0, tiles=tiles) for x in (q, k) if norm is not None]
    launches.append(state_launch(k, v, norm, scales, parts, tiles=tiles))
    assert launches[-1].constants["STEPS"] * launches[-1].constants["TOKENS"] == SUMMED_TOKENS
    launches.append(forward_launch(q, norm, scales, states, out, eps=0.0, tiles=tiles))
    moved = (x.nbytes for launch in launches for x in launch.arguments.values() if isinstance(x, Tensor))
    return sum(moved) + (parts.nbytes + states.nbytes if len(parts) > 1 else 0)


def _latent(config: DCAEConfig, pixels: int) -> tuple[int, int, int, int]:
    return 1, config.latent_channels, pixels // config.compression, pixels // config.compression


if __name__ == "__main__":
    main()
