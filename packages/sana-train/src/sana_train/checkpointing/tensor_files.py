"""Tensors in the files of torch.distributed.checkpoint: each process writes its shards, any number of them reads.

DCP's planners and file storage are driven here step by step: its own `save` raises a BaseException, warns wherever
there is no process group, and for a background save copies on every process what only one of them writes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.storage import WriteResult

from sana_train.checkpointing.tensor_index import read_index
from sana_train.peers import Peers


class Snapshot:
    """What this process has to write of a state that all processes share out between them.

    Making one is collective. The tensors are read when they are written, unless `keep` has copied them before.
    """

    def __init__(self, state: Mapping[str, Tensor], folder: Path, peers: Peers) -> None:
        self._folder, self._rank = folder, peers.rank
        self._planner = _SavePlanner()
        self._planner.set_up_planner(dict(state), is_coordinator=peers.rank == 0)
        self._writer = _Writer(folder)
        self._writer.set_up_storage_writer(peers.rank == 0)
        self._plan = self._planner.finish_plan(peers.agree(self._planner.create_local_plan, self._divide))

    def keep(self) -> None:
        """Copy the tensors to CPU memory, so that the state may change before it is written."""
        self._planner.keep(self._plan)

    def write(self) -> tuple[list[WriteResult], list[Path]]:
        """Write this process's files and have them on the disk; returns what `write_index` needs, and the files."""
        results = self._writer.write_data(self._plan, self._planner).wait()
        return results, sorted(self._folder.glob(f"__{self._rank}_*"))

    def write_index(self, written: list[list[WriteResult]]) -> None:
        """Write the index of all processes' files; in the first process, once all have written."""
        self._writer.finish(self._planner.metadata, written)

    def _divide(self, plans: list[SavePlan]) -> list[SavePlan]:
        shares, _ = self._planner.create_global_plan(plans)
        return self._writer.prepare_global_plan(shares)


class _SavePlanner(DefaultSavePlanner):
    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._kept: dict[MetadataIndex, Tensor] | None = None

    def keep(self, plan: SavePlan) -> None:
        resolve = super().resolve_data
        self._kept = {item.index: _copied(resolve(item)) for item in plan.items}

    def resolve_data(self, write_item: WriteItem) -> Any:
        return super().resolve_data(write_item) if self._kept is None else self._kept.pop(write_item.index)


def _copied(tensor: Any) -> Tensor:
    copy: Tensor = tensor.detach().to("cpu", copy=True)
    return copy


class _Writer(FileSystemWriter):
    def storage_meta(self) -> StorageMeta:
        return StorageMeta()  # DCP's holds the path, of a class that a later Python cannot hand to an earlier one


def read_tensors(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Fill the tensors of `state`, or this process's part of DTensors, from the files of `folder`."""
    index = read_index(folder)
    reader, planner = FileSystemReader(folder), DefaultLoadPlanner(False, False)
    reader.set_up_storage_reader(index, False)
    planner.set_up_planner(dict(state), index)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    reader.read_data(planner.finish_plan(plan), planner).wait()
