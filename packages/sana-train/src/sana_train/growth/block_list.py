"""Where a model keeps its blocks, and how its configuration learns how many there are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

_FIELD = "num_layers"
_METHODS = ("reset_parameters", "zero_residuals")


@dataclasses.dataclass(frozen=True, slots=True)
class BlockList:
    """The blocks of a model: the attribute that holds them; `model.config.num_layers` counts them."""

    model: nn.Module
    name: str

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks as they are now."""
        blocks: nn.ModuleList = getattr(self.model, self.name)
        return blocks

    def replace(self, blocks: Sequence[nn.Module]) -> None:
        """Let the model consist of `blocks`, in the list that it has; the configuration counts them."""
        held = self.blocks
        del held[:]
        held.extend(blocks)
        self._write_depth()

    def check_depth(self) -> None:
        """Raise ValueError unless the configuration counts the blocks that are there."""
        found = config_field(self.model, _FIELD)
        if found != len(self.blocks):
            raise ValueError(
                f"{type(self.model).__name__}.config says {_FIELD}={found} and {self.name} holds {len(self.blocks)}: "
                "make them agree first, so that a saved model loads"
            )

    def _write_depth(self) -> None:
        model: Any = self.model
        depth = {_FIELD: len(self.blocks)}
        if dataclasses.is_dataclass(model.config) and not isinstance(model.config, type):
            model.config = dataclasses.replace(model.config, **depth)
        elif isinstance(model.config, dict):
            model.config = model.config | depth  # another model may hold the same dict
        else:
            setattr(model.config, _FIELD, depth[_FIELD])


def block_list(model: nn.Module, name: str = "blocks") -> BlockList:
    """The `BlockList` of a model whose blocks are in the attribute `name`.

    Raises:
        ValueError: there is no such list, it is empty or holds a module twice, or a block lacks a method that growth
            needs.
    """
    blocks = getattr(model, name, None)
    if not isinstance(blocks, nn.ModuleList):
        lists = [n for n, child in model.named_children() if isinstance(child, nn.ModuleList)]
        raise ValueError(f"{type(model).__name__} has no nn.ModuleList {name!r}; it has {', '.join(lists) or 'none'}")
    if len(blocks) == 0:
        raise ValueError(f"{type(model).__name__}.{name} is empty; there must be at least one block to grow from")
    if len({id(block) for block in blocks}) < len(blocks):
        raise ValueError(f"{name} holds one module more than once; blocks with shared weights cannot be told apart")
    for block in blocks:
        if missing := [method for method in _METHODS if not callable(getattr(block, method, None))]:
            raise ValueError(
                f"a {type(block).__name__} has no {' and no '.join(missing)}: growth needs reset_parameters(generator) "
                "to draw a new block and zero_residuals() to let it begin as the identity"
            )
    return BlockList(model, name)


def config_field(model: nn.Module, name: str) -> Any:
    """A field of the model's configuration, be it an object or a mapping; None where there is none."""
    config = getattr(model, "config", None)
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
