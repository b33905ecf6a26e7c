"""Examples to batches: the order is a pure function of (seed, epoch), and pictures of one prompt come together."""

import random
from collections.abc import Sequence
from typing import Any

from sana_judge.image_reading import read_image
from sana_judge.training.examples import Example
from sana_judge.training.questions import Asked, QuestionBatcher
from sana_judge.vila.config import VILAConfig
from sana_judge.vila.tiling import cut_tiles


class ExampleBatches:
    """The batch of each step: `QuestionBatcher`'s tensors of `batch_size` examples.

    Every epoch takes the examples in another order; those left over at its end wait for another one. An example that
    has negatives is asked one of them beside its own prompt, another in each epoch.

    Args:
        examples: what to learn from.
        batcher: turns pictures and questions into tensors.
        config: of the judge, for the tiles.
        batch_size: pictures of a step.
        together: how many examples of a group follow each other; the pairwise loss compares what is in one batch.
        max_tiles: most tiles of a picture; None is the judge's own limit.
        seed: names the order.

    Raises:
        ValueError: batch_size or together is below 1, or there are fewer examples than batch_size.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batcher: QuestionBatcher,
        config: VILAConfig,
        *,
        batch_size: int,
        together: int = 4,
        max_tiles: int | None = None,
        seed: int = 0,
    ) -> None:
        if not 1 <= batch_size <= len(examples):
            raise ValueError(
                f"batch_size is {batch_size} and there are {len(examples)} examples; it must be from 1 to their number"
            )
        if together < 1:
            raise ValueError(f"together is {together}; it must be at least 1")
        self.examples = examples
        self.batcher = batcher
        self.config = config
        self.batch_size = batch_size
        self.together = together
        self.max_tiles = config.max_tiles if max_tiles is None else max_tiles
        self.seed = seed
        self._epoch: tuple[int, list[int]] = (0, self.order(0))

    def __call__(self, step: int) -> dict[str, Any]:
        """The whole batch of a step."""
        return self.part(step, range(self.batch_size))

    def part(self, step: int, slots: range) -> dict[str, Any]:
        """The examples at `slots` of the batch of a step; no other image is opened."""
        epoch, place = divmod(step, len(self.examples) // self.batch_size)
        if epoch != self._epoch[0]:
            self._epoch = (epoch, self.order(epoch))
        order = self._epoch[1]
        chosen = [order[place * self.batch_size + slot] for slot in slots]
        examples = [self.examples[number] for number in chosen]
        return self.batcher(
            [str(example.image) for example in examples],
            [cut_tiles(read_image(example.image), self.config, max_tiles=self.max_tiles) for example in examples],
            [self._asked(number, epoch) for number in chosen],
        )

    def order(self, epoch: int) -> list[int]:
        """Every example once: runs of at most `together` of a group, in random order."""
        rng = random.Random(f"{self.seed} {epoch}")
        groups: dict[str, list[int]] = {}
        for number in rng.sample(range(len(self.examples)), len(self.examples)):
            groups.setdefault(self.examples[number].group, []).append(number)
        runs = [
            members[start : start + self.together]
            for members in groups.values()
            for start in range(0, len(members), self.together)
        ]
        rng.shuffle(runs)
        return [number for run in runs for number in run]

    def _asked(self, number: int, epoch: int) -> list[Asked]:
        example = self.examples[number]
        asked = [Asked(example.prompt, example.label, example.group)]
        if example.negatives:
            negative = random.Random(f"{self.seed} {epoch} {number}").choice(example.negatives)
            asked.append(Asked(negative, 0.0, negative))
        return asked
