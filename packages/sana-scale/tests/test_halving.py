import math
import random

import pytest

from sana_scale import Halving, PreviewingSampler, Threshold, best_of_n, best_of_n_many
from sana_scale.judging import checked_scores


class Sketcher:
    """Draws (seed, truth) pairs in 20 steps; half-way it shows the truth with noise that shrinks with time."""

    def __init__(self, noise):
        self.noise = noise
        self.steps = 0.0
        self.batches = []

    def __call__(self, prompt, seeds):
        self.steps += 20 * len(seeds)
        return [(seed, self.truth(seed)) for seed in seeds]

    def truth(self, seed):
        return random.Random(seed).gauss(0, 1)

    def sketch(self, seed, at):
        return seed, self.truth(seed) + self.noise * (1 - at) * random.Random(-seed - 1).gauss(0, 1)

    def previewing(self, prompt, seeds, *, at, keep):
        self.batches.append((list(seeds), tuple(at)))
        spent = 0.0
        for look in at:
            self.steps += 20 * (look - spent) * len(seeds)
            spent = look
            seeds = [seeds[place] for place in keep([self.sketch(seed, look) for seed in seeds])]
        self.steps += 20 * (1 - spent) * len(seeds)
        return [(seed, (seed, self.truth(seed))) for seed in reversed(seeds)]


def score(prompt, images):
    return [worth for _, worth in images]


def test_a_sampler_with_previewing_is_one_in_structure(sampler):
    assert isinstance(Sketcher(0), PreviewingSampler)
    assert not isinstance(sampler, PreviewingSampler)


def test_clear_previews_halve_every_batch_after_the_pilot():
    sample = Sketcher(noise=0.1)
    result = best_of_n(sample, score, "a", n=64, keep=2, batch_size=8, prune=Halving(pilot=16))
    assert result.pilot.correlations[0] > 0.9
    assert result.generated == len(result.candidates) == 16 + 48 / 2
    assert len(result.pruned) == 24
    assert {*result.pruned, *(candidate.seed for candidate in result.candidates)} == set(range(64))
    whole = best_of_n(Sketcher(0), score, "a", n=64, keep=2)
    assert result.images == whole.images  # a quarter of the noise changes nobody's half


def test_the_cost_is_what_the_sampler_spent():
    sample = Sketcher(noise=0.1)
    result = best_of_n(sample, score, "a", n=64, prune=Halving(at=(0.25, 0.5), pilot=16))
    assert len(result.candidates) == 16 + 48 / 4
    assert result.cost == pytest.approx(sample.steps / 20)
    assert result.cost == 16 + 48 * (0.25 + 0.5 * 0.25 + 0.25 * 0.5)


def test_blind_previews_prune_nothing():
    sample = Sketcher(noise=1000)
    result = best_of_n(sample, score, "a", n=64, prune=Halving(pilot=32))
    assert abs(result.pilot.correlations[0]) < 0.4
    assert (result.pilot.used, result.pruned, result.generated) == ((), (), 64)
    assert [seeds[0] for seeds, _ in sample.batches] == [0, 8, 16, 24]  # after the pilot it looks no more


def test_only_looks_that_say_something_are_used():
    class LateBloomer(Sketcher):
        def sketch(self, seed, at):
            return super().sketch(seed, at) if at > 0.4 else (seed, 0.0)

    sample = LateBloomer(noise=0.1)
    result = best_of_n(sample, score, "a", n=32, prune=Halving(at=(0.25, 0.5), pilot=16))
    assert (result.pilot.at, result.pilot.used) == ((0.25, 0.5), (0.5,))
    assert result.pilot.correlations[0] == 0  # all previews were equal
    assert sample.batches[-1][1] == (0.5,)


def test_a_short_run_is_all_pilot():
    result = best_of_n(Sketcher(0), score, "a", n=8, prune=Halving(pilot=16))
    assert (result.generated, result.pilot, result.pruned) == (8, None, ())


def test_at_least_one_of_a_batch_is_finished():
    result = best_of_n(Sketcher(0), score, "a", n=20, batch_size=4, prune=Halving(keep=0.01, pilot=4))
    assert len(result.candidates) == 4 + 4


def test_stopping_looks_at_the_finished_images_in_the_order_of_seeds():
    plain = best_of_n(Sketcher(0), score, "a", n=64, prune=Halving(pilot=16))
    finished = sorted(candidate.seed for candidate in plain.candidates)
    good = next(seed for seed in finished if seed >= 20)
    rule = Threshold(max(Sketcher(0).truth(seed) for seed in finished[: finished.index(good) + 1]))
    result = best_of_n(Sketcher(0), score, "a", n=64, prune=Halving(pilot=16), stop=rule)
    assert len(result.candidates) <= finished.index(good) + 1
    assert result.best.score >= rule.score


def test_a_pruned_run_resumes_with_what_its_pilot_found(paint, blue, tmp_path):
    class Painter:
        def __call__(self, prompt, seeds):
            return paint(prompt, seeds)

        def previewing(self, prompt, seeds, *, at, keep):
            for _ in at:
                seeds = [seeds[place] for place in keep(paint(prompt, seeds))]
            return list(zip(seeds, paint(prompt, seeds), strict=True))

    def interrupt(progress):
        if progress.judged > progress.n // 2:
            raise KeyboardInterrupt

    ask = {"n": 48, "keep": 2, "batch_size": 4, "prune": Halving(pilot=8)}
    whole = best_of_n(Painter(), blue, "a", **ask)
    with pytest.raises(KeyboardInterrupt):
        best_of_n(Painter(), blue, "a", run_dir=tmp_path, on_progress=interrupt, **ask)
    assert best_of_n(Painter(), blue, "a", run_dir=tmp_path, **ask) == whole
    assert best_of_n(Painter(), blue, "a", run_dir=tmp_path, **ask).pilot == whole.pilot


def test_pruning_needs_previews(sampler, judge):
    with pytest.raises(TypeError, match="method previewing"):
        best_of_n(sampler, judge, "a", n=32, prune=Halving())


@pytest.mark.parametrize(
    ("previewing", "words"),
    [
        (lambda seeds, keep: [(seed, 0) for seed in seeds], "looked 0 times"),
        (lambda seeds, keep: [(seeds[place], 0) for place in keep([0] * len(seeds))][:-1], "finished the seeds"),
        (lambda seeds, keep: keep([0]), "showed 1 images"),
        (lambda seeds, keep: [keep([0] * len(seeds)) for _ in range(2)], "at look 2"),
    ],
)
def test_previews_that_break_the_rules_are_reported(previewing, words):
    class Careless(Sketcher):
        def previewing(self, prompt, seeds, *, at, keep):
            return previewing(seeds, keep)

    with pytest.raises(ValueError, match=words):
        best_of_n(Careless(0), lambda p, images: [0.0] * len(images), "a", n=8, prune=Halving())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"at": ()}, "rising fractions"),
        ({"at": (0.5, 0.25)}, "rising fractions"),
        ({"at": (0.5, 1.0)}, "rising fractions"),
        ({"keep": 1.0}, "between 0 and 1"),
        ({"pilot": 2}, "at least 4"),
        ({"min_correlation": 1.2}, "a correlation"),
    ],
)
def test_senseless_schedules_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Halving(**wrong)


def test_a_schedule_that_may_leave_too_few_is_refused():
    with pytest.raises(ValueError, match=r"may finish only 18 of n=32 .* keep=20 needs more"):
        best_of_n(Sketcher(0), score, "a", n=32, keep=20, prune=Halving())


def test_a_judge_that_fails_at_a_preview_is_asked_again():
    failed = []

    def moody(prompt, images):
        if not failed:
            failed.append(True)
            raise MemoryError
        return checked_scores(score(prompt, images), [seed for seed, _ in images])

    assert best_of_n(Sketcher(0), moody, "a", n=16, prune=Halving()).generated == 16


@pytest.mark.parametrize("noise", [0.1, 1000])
@pytest.mark.parametrize("keep", [1, 22])
def test_a_shared_budget_counts_what_is_spent_and_leaves_enough_to_keep(noise, keep):
    ask = {"n": 64, "keep": keep, "prune": Halving(at=(0.25, 0.5))}
    with pytest.raises(ValueError, match=r"budget is 1; it may not give .* that takes") as refusal:
        best_of_n_many(Sketcher(noise), score, ["a", "b"], budget=1, **ask)
    least = math.ceil(float(str(refusal.value).split()[-1]))
    for budget in (least, least + 17):
        sample = Sketcher(noise)
        results = best_of_n_many(sample, score, ["a", "b"], budget=budget, **ask)
        assert [len(result.images) for result in results] == [keep, keep]
        spent = sum(result.cost for result in results)
        assert spent == pytest.approx(sample.steps / 20)
        assert budget - 8 < spent <= budget  # a batch is 8 at most


def test_prompts_that_prune_worse_do_not_take_what_others_need_to_keep_enough():
    class Moody(Sketcher):
        def sketch(self, seed, at):
            clear = self.prompt == "clear"
            return seed, self.truth(seed) if clear else random.Random(-seed - 1).random()

        def previewing(self, prompt, seeds, **looks):
            self.prompt = prompt
            return super().previewing(prompt, seeds, **looks)

    ask = {"n": 64, "keep": 22, "prune": Halving(min_correlation=0.9)}
    with pytest.raises(ValueError, match="that takes") as refusal:
        best_of_n_many(Moody(0), score, ["blind", "clear"], budget=44, **ask)
    least = math.ceil(float(str(refusal.value).split()[-1]))
    results = best_of_n_many(Moody(0), score, ["blind", "clear"], budget=least, **ask)
    assert [bool(result.pilot.used) for result in results] == [False, True]
    assert [len(result.images) for result in results] == [22, 22]
