"""Draw and judge concurrently: while the judge looks at one batch, the sampler draws the next."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")
DrawnT = TypeVar("DrawnT")
JudgedT = TypeVar("JudgedT")


def streamed(
    items: Iterable[Item],
    draw: Callable[[Item], DrawnT],
    judge: Callable[[DrawnT], JudgedT],
    *,
    waits: Callable[[Item], bool] = lambda item: False,
    overlap: bool = True,
) -> Generator[JudgedT, None, None]:
    """Yield `judge(draw(item))` in the order of `items`, judging in a second thread while the next item is drawn.

    Everything is drawn in the calling thread. An item that `waits` is drawn when all before it have been yielded;
    without `overlap` every item does. A judge that fails is asked a second time with nothing else going on, since two
    models at work at once may only have been too much for the memory. What was drawn before an error is yielded first.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge") as judging:
        waiting: tuple[DrawnT, Future[JudgedT]] | None = None
        for item in items:
            if waiting and (waits(item) or not overlap):
                yield _settle(*waiting, judge)
                waiting = None
            drawn, failure = _attempt(draw, item)
            if waiting:
                yield _settle(*waiting, judge)
                waiting = None
            if failure:
                raise failure
            assert drawn is not None
            waiting = drawn, judging.submit(copy_context().run, judge, drawn)
        if waiting:
            yield _settle(*waiting, judge)


def _attempt(draw: Callable[[Item], DrawnT], item: Item) -> tuple[DrawnT | None, Exception | None]:
    try:
        return draw(item), None
    except Exception as error:
        return None, error


def _settle(drawn: DrawnT, future: Future[JudgedT], judge: Callable[[DrawnT], JudgedT]) -> JudgedT:
    try:
        return future.result()
    except Exception:
        return judge(drawn)
