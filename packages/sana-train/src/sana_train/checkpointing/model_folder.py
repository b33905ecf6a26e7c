"""The public folder of a run's model, `run_dir/model`, written from weights that may be averaged and sharded."""

import copy
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sana_train.folders import replace_folder
from sana_train.peers import PeerError, Peers


class ModelFolder:
    """Writes a model through a copy of it that has no weights of its own, made before the model is sharded.

    The model's `save_pretrained(dir)` writes the files where it has one, else they are one `model.safetensors`.
    """

    def __init__(self, model: nn.Module) -> None:
        blanks = {id(p): nn.Parameter(p.to("meta"), requires_grad=p.requires_grad) for p in model.parameters()}
        self._copy = copy.deepcopy(model, dict(blanks))
        self._blanks = dict(self._copy.state_dict())
        self._peers = Peers()

    def write(self, folder: Path, model: nn.Module, averages: Mapping[str, Tensor]) -> None:
        """Write `folder` in one step with `model`'s buffers and `averages`, or its own weights where there are none.

        Every process calls this; the first one writes.

        Raises:
            OSError: it could not be written, said in every process; the folder is as it was.
        """
        averaged = {id(weight): averages.get(name, weight) for name, weight in model.named_parameters()}
        full = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            value = _gathered(averaged.get(id(tensor), tensor).detach())
            if self._peers.rank == 0:
                full[name] = value.to(dtype=tensor.dtype, device="cpu")
        try:
            self._peers.first(lambda: self._put(folder, full))
        except PeerError as error:
            raise OSError(f"{folder} was not written and is as it was ({error}): make room, then resume") from error

    def _put(self, folder: Path, full: dict[str, Tensor]) -> None:
        self._copy.load_state_dict(full, assign=True)
        try:
            replace_folder(folder, self._export)
        finally:
            self._copy.load_state_dict(self._blanks, assign=True)

    def _export(self, folder: Path) -> None:
        save_pretrained = getattr(self._copy, "save_pretrained", None)
        if save_pretrained is None:
            save_model(self._copy, str(folder / "model.safetensors"))
        else:
            save_pretrained(folder)


def _gathered(tensor: Tensor) -> Tensor:
    """The whole tensor; gathered uneven shards are a view of a larger one, which safetensors would not write."""
    return tensor.full_tensor().clone() if isinstance(tensor, DTensor) else tensor
