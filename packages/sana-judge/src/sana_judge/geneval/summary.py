"""GenEval's summary of many verdicts: the mean of the tasks' shares of correct images."""

from collections.abc import Iterable
from dataclasses import dataclass

from sana_judge.geneval.rules import Verdict

# Of the official prompts.
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """GenEval's summary: shares in [0, 1].

    tasks: correct images of each task; overall: mean of `tasks`, every task weighing the same; images: correct
    images of all; prompts: prompts with at least one correct image.
    """

    tasks: dict[str, float]
    overall: float
    images: float
    prompts: float

    @property
    def absent(self) -> tuple[str, ...]:
        """The official tasks that no image is of: `overall` is no GenEval score then."""
        return tuple(task for task in TASKS if task not in self.tasks)

    @property
    def heading(self) -> str:
        """What `overall` is the mean of."""
        official = len(TASKS) - len(self.absent)
        counted = f"{official} of {len(TASKS)} " if self.absent and official == len(self.tasks) else ""
        return f"overall (mean of {counted}tasks)"

    def __str__(self) -> str:
        rows = [*self.tasks.items(), (self.heading, self.overall)]
        rows += [("correct images", self.images), ("prompts with a correct image", self.prompts)]
        return "\n".join(f"{name:<30} {100 * share:6.2f}%" for name, share in rows)


def table(verdicts: Iterable[Verdict]) -> Table:
    """Sum up the verdicts of all images, as GenEval does. Raises ValueError when there are none."""
    by_task: dict[str, list[bool]] = {}
    by_prompt: dict[tuple[str, str], list[bool]] = {}
    for verdict in verdicts:
        by_task.setdefault(verdict.tag, []).append(verdict.correct)
        by_prompt.setdefault((verdict.tag, verdict.prompt), []).append(verdict.correct)
    if not by_task:
        raise ValueError("no verdicts: a table needs at least one judged image")
    tasks = {tag: _share(correct) for tag, correct in by_task.items()}
    return Table(
        tasks=tasks,
        overall=_share(tasks.values()),
        images=_share([image for correct in by_task.values() for image in correct]),
        prompts=_share([any(correct) for correct in by_prompt.values()]),
    )


def _share(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
