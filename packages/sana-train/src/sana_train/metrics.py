"""The log of a run: one line of JSON per logged step, which a resumed run continues without a seam."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_train.folders import replace_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends to `run_dir/metrics.jsonl` and, if asked, to TensorBoard files in `run_dir/tensorboard`.

    One process of a run writes; the others have no log.

    Raises:
        ImportError: TensorBoard is asked for and not installed.
    """

    def __init__(self, run_dir: str | Path, *, tensorboard: bool = False) -> None:
        self.path = Path(run_dir) / METRICS
        self._tensorboard = tensorboard
        self._writer: SummaryWriter | None = None
        if tensorboard:
            _import_tensorboard()

    def append(self, metrics: dict[str, Any]) -> None:
        """Add one line; `metrics` holds "step". A number that is not finite becomes null, which JSON has."""
        line = json.dumps({name: _finite(value) for name, value in metrics.items()}, ensure_ascii=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._tensorboard:
            self._append_scalars(metrics)

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that are about to be done again, and a line that a kill has cut in half."""
        self.close()
        if self._tensorboard:
            self._writer = self._new_writer(purge_step=step + 1)
        if not self.path.exists():
            return
        kept = [line for line in _lines(self.path) if (parsed := _parsed(line)) and parsed["step"] <= step]
        replace_file(self.path, "".join(line + "\n" for line in kept).encode())

    def close(self) -> None:
        """Write out what TensorBoard still holds; the log can be appended to again."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _append_scalars(self, metrics: dict[str, Any]) -> None:
        if self._writer is None:
            self._writer = self._new_writer(purge_step=None)
        for name, value in metrics.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, metrics["step"])
        self._writer.flush()

    def _new_writer(self, *, purge_step: int | None) -> "SummaryWriter":
        folder = str(self.path.parent / "tensorboard")
        return _import_tensorboard()(folder, purge_step=purge_step)


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log in the order written; a damaged one is left out. No log is no lines."""
    path = Path(run_dir) / METRICS
    if not path.exists():
        return []
    return [parsed for line in _lines(path) if (parsed := _parsed(line))]


def _lines(path: Path) -> list[str]:
    """The lines of a file; keys may hold U+2028 and other characters where `splitlines` would break them."""
    return path.read_text(encoding="utf-8", errors="replace").split("\n")


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        metrics = json.loads(line)
    except ValueError:
        return None
    is_line = isinstance(metrics, dict) and isinstance(metrics.get("step"), int | float)
    return metrics if is_line else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _import_tensorboard() -> "type[SummaryWriter]":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("TensorBoard files need tensorboard: pip install 'sana-train[tensorboard]'") from error
    return SummaryWriter
