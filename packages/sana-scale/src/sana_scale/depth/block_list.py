"""Where a model keeps its blocks, and how its configuration learns how many there are."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

# The lists that are looked for, and the field of the configuration that counts each.
_DEPTH_FIELDS = {
    "blocks": "num_layers",
    "transformer_blocks": "num_layers",
    "single_transformer_blocks": "num_single_layers",
}


@dataclasses.dataclass(frozen=True, slots=True)
class BlockList:
    """The blocks of a model: the attribute that holds them and the field of `model.config` that counts them."""

    model: nn.Module
    name: str

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks as they are now."""
        blocks: nn.ModuleList = getattr(self.model, self.name)
        return blocks

    def keep(self, kept: Sequence[int]) -> None:
        """Delete every block but those at `kept`; the others are numbered anew, the configuration counts them."""
        for index in sorted(set(range(len(self.blocks))) - set(kept), reverse=True):
            del self.blocks[index]
        self._write_depth(len(kept))

    @contextmanager
    def only(self, kept: Sequence[int]) -> Iterator[nn.ModuleList]:
        """Within this context the model has the blocks at `kept`; its configuration does not change."""
        all_blocks = self.blocks
        subset = nn.ModuleList(all_blocks[index] for index in kept)
        subset.training = all_blocks.training
        setattr(self.model, self.name, subset)
        try:
            yield subset
        finally:
            setattr(self.model, self.name, all_blocks)

    def check_depth(self) -> None:
        """Raise ValueError unless the configuration, where there is one, counts the blocks that are there."""
        config = getattr(self.model, "config", None)
        if config is None:
            return
        counted = _field_of(config, self._field)
        if counted is None:
            raise ValueError(
                f"{type(self.model).__name__}.config has no {self._field}, so a saved model would not load: "
                f"depth pruning needs the number of {self.name} there"
            )
        if counted != len(self.blocks):
            raise ValueError(
                f"{type(self.model).__name__}.config says {self._field}={counted} and {self.name} holds "
                f"{len(self.blocks)}: make them agree first"
            )

    @property
    def _field(self) -> str:
        return _DEPTH_FIELDS.get(self.name, "num_layers")

    def _write_depth(self, depth: int) -> None:
        model: Any = self.model
        config = getattr(model, "config", None)
        if config is None:
            return
        if hasattr(model, "register_to_config"):
            _register(model, config, {self._field: depth})
        elif dataclasses.is_dataclass(config) and not isinstance(config, type):
            model.config = dataclasses.replace(config, **{self._field: depth})
        elif isinstance(config, dict):
            model.config = config | {self._field: depth}  # another model may hold the same dict
        else:
            setattr(config, self._field, depth)


def block_list(model: nn.Module, name: str | None = None) -> BlockList:
    """The `BlockList` of a model: the attribute `name`, or the first of `blocks`, `transformer_blocks` that it has.

    Raises:
        ValueError: there is no such list, or it is empty, or it holds a module twice.
    """
    found = [n for n in ([name] if name else _DEPTH_FIELDS) if isinstance(getattr(model, n, None), nn.ModuleList)]
    if not found:
        lists = [n for n, child in model.named_children() if isinstance(child, nn.ModuleList)]
        wanted = name or " or ".join(_DEPTH_FIELDS)
        raise ValueError(
            f"{type(model).__name__} has no nn.ModuleList {wanted}; it has {', '.join(lists) or 'none'}: "
            "give the name of its blocks as blocks="
        )
    blocks = getattr(model, found[0])
    check_blocks(blocks)
    return BlockList(model, found[0])


def check_blocks(blocks: Sequence[nn.Module] | nn.ModuleList) -> None:
    """Raise unless `blocks` is a list of different modules, at least one."""
    if isinstance(blocks, nn.Module) and not isinstance(blocks, nn.ModuleList):
        raise TypeError(f"blocks is a {type(blocks).__name__}; it must be its nn.ModuleList, such as model.blocks")
    if len(blocks) == 0:
        raise ValueError("blocks is empty; there must be at least one")
    if len({id(block) for block in blocks}) < len(blocks):
        raise ValueError("blocks holds one module more than once; blocks with shared weights cannot be told apart")


def _register(model: Any, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    # diffusers leaves out of `from_config` what it believes to be a default, so a new depth must not be one.
    if "_use_default_values" in config:
        fields["_use_default_values"] = [name for name in config["_use_default_values"] if name not in fields]
    model.register_to_config(**fields)


def _field_of(config: object, name: str) -> Any:
    """A field of a configuration, which may be a mapping; None where there is none."""
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
