"""The processes of a run acting as one: what fails in one fails in all, and none is left waiting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")
R = TypeVar("R")


class PeerError(RuntimeError):
    """A step that all processes take together failed in at least one of them; the message says why."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """What went wrong, in words: not every exception can be sent to another process."""

    reason: str


class Peers:
    """All processes of `torch.distributed`, or this one alone where no process group is running.

    They talk over a gloo group of their own, so that a background thread may do it while the main thread trains.
    Making a `Peers` is collective, and so are its methods.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self.count = dist.get_world_size() if self._group else 1
        self.rank = dist.get_rank() if self._group else 0

    def agree(self, act: Callable[[], T], decide: Callable[[list[T]], list[R]]) -> R:
        """Run `act` everywhere, gather the results on rank 0, and scatter what `decide` returns: one answer each.

        Raises:
            PeerError: `act` failed somewhere, or `decide` did; in all processes.
        """
        errors: list[Exception] = []
        everyone = self._gather(_attempt(act, errors))
        answers = self._answers(everyone, decide, errors) if self.rank == 0 else None
        answer: Any = self._scatter(answers)
        if isinstance(answer, _Failure):
            raise PeerError(answer.reason) from next(iter(errors), None)
        result: R = answer
        return result

    def everywhere(self, act: Callable[[], object]) -> None:
        """Run `act` in every process, and return once all have.

        Raises:
            PeerError: it failed somewhere; in all processes.
        """
        self.agree(lambda: _nothing(act()), lambda everyone: everyone)

    def first(self, act: Callable[[], T]) -> T:
        """What `act` returns in the first process; no other runs it.

        Raises:
            PeerError: it failed; in all processes.
        """
        return self.agree(lambda: None, lambda everyone: [act()] * len(everyone))

    def _answers(self, everyone: list[Any], decide: Callable[[list[Any]], list[Any]], errors: list[Exception]) -> Any:
        failures = {rank: result.reason for rank, result in enumerate(everyone) if isinstance(result, _Failure)}
        if not failures:
            answers = _attempt(lambda: decide(everyone), errors)
            return [answers] * self.count if isinstance(answers, _Failure) else answers
        named = [f"process {rank}: {reason}" if self.count > 1 else reason for rank, reason in failures.items()]
        return [_Failure("; ".join(named))] * self.count

    def _gather(self, value: object) -> list[Any]:
        if self._group is None:
            return [value]
        values = [None] * self.count if self.rank == 0 else None
        dist.gather_object(value, values, dst=0, group=self._group)
        return values or []

    def _scatter(self, values: list[Any] | None) -> Any:
        if self._group is None:
            return (values or [None])[0]
        received = [None]
        dist.scatter_object_list(received, values, src=0, group=self._group)
        return received[0]


def _attempt(act: Callable[[], Any], errors: list[Exception]) -> Any:
    try:
        return act()
    except Exception as error:
        errors.append(error)
        return _Failure(_reason(error))


def _reason(error: BaseException) -> str:
    """The error in words, or those of the OSError behind it: torch.save hides a full disk behind a RuntimeError."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__context__
    shown = behind or error
    return f"{type(shown).__name__}: {shown}"


def _nothing(result: object) -> None:
    """Forget what need not be sent to the others."""
