"""The blocks of a deeper model, made of those of a shallower one."""

import copy
import hashlib
from collections.abc import Sequence

import torch
from torch import nn
from tqdm import tqdm

from sana_train.growth.arrangement import IDENTITIES, Init, Sources, first_places


def deeper(
    blocks: Sequence[nn.Module], sources: Sources, *, init: Init, seed: int, progress: bool = True
) -> list[nn.Module]:
    """One block for each of `sources`: the source's own where it comes first, else a copy of it or a fresh block.

    A fresh block depends on (seed, its place) alone, whatever its device and the number of others. Where `init` begins
    as an identity, the new blocks' residual branches are zero.
    """
    staying = first_places(sources)
    grown: list[nn.Module] = []
    for place, source in enumerate(tqdm(sources, desc="growing", unit=" blocks", disable=not progress, leave=False)):
        if place in staying:
            assert source is not None
            grown.append(blocks[source])
            continue
        block = copy.deepcopy(blocks[0 if source is None else source])
        if source is None and not _is_meta(block):
            block.reset_parameters(_generator(seed, place))  # type: ignore[operator]
        if init in IDENTITIES:
            block.zero_residuals()  # type: ignore[operator]
        grown.append(block)
    return grown


def _generator(seed: int, place: int) -> torch.Generator:
    name = f"growth/{seed}/{place}".encode()
    number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1  # manual_seed takes 63 bits
    return torch.Generator("cpu").manual_seed(number)


def _is_meta(module: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in module.parameters())
