import threading
import weakref

import pytest

from sana_scale import Local, Threshold, best_of_n


def test_the_candidates_are_all_seeds_best_first(sampler, judge, value):
    result = best_of_n(sampler, judge, "a cat", n=20, keep=3, seed=5, batch_size=4)
    expected = sorted(range(5, 25), key=lambda seed: (-value(seed), seed))
    assert [candidate.seed for candidate in result.candidates] == expected
    assert [candidate.score for candidate in result.candidates] == [value(seed) for seed in expected]
    assert result.images == [f"a cat:{seed}" for seed in expected[:3]]
    assert all(candidate.image is None for candidate in result.candidates[3:])
    assert (result.best, result.generated, result.stopped) == (result.candidates[0], 20, None)
    assert result.scores == [value(seed) for seed in range(5, 25)]


def test_equal_scores_are_ordered_by_seed(sampler):
    result = best_of_n(sampler, lambda prompt, images: [1.0] * len(images), "a", n=9, keep=2, batch_size=4)
    assert [candidate.seed for candidate in result.candidates] == list(range(9))
    assert result.images == ["a:0", "a:1"]


@pytest.mark.parametrize("stop", [None, Threshold(90)])
def test_batch_size_and_overlap_do_not_change_the_result(sampler, judge, stop):
    results = [
        best_of_n(sampler, judge, "a", n=50, keep=2, batch_size=size, stop=stop, executor=Local(overlap=overlap))
        for size in (1, 7, 64)
        for overlap in (True, False)
    ]
    assert {result.candidates for result in results} == {results[0].candidates}


def test_a_batch_is_judged_while_the_next_is_drawn(sampler, judge):
    """Each side waits for the other one's next call: without overlap this could not end."""
    drawing_second, judging_first = threading.Event(), threading.Event()

    def sample(prompt, seeds):
        if 4 in seeds:
            drawing_second.set()
            assert judging_first.wait(10)
        return sampler(prompt, seeds)

    def score(prompt, images):
        judging_first.set()
        assert drawing_second.wait(10)
        return judge(prompt, images)

    assert best_of_n(sample, score, "a", n=8, batch_size=4).generated == 8


def test_only_two_batches_and_the_best_are_in_memory(judge):
    class Picture(str):
        __slots__ = ("__weakref__",)

    alive = weakref.WeakSet()
    most = 0

    def sample(prompt, seeds):
        nonlocal most
        most = max(most, len(alive))
        images = [Picture(f"{prompt}:{seed}") for seed in seeds]
        alive.update(images)
        return images

    best_of_n(sample, judge, "a", n=60, keep=2, batch_size=5)
    assert most <= 5 + 2  # one batch at the judge and the best, when the next is asked for


def test_stopping_counts_what_was_drawn_in_vain(sampler, judge, value):
    first = next(seed for seed in range(64) if value(seed) >= 90)
    result = best_of_n(sampler, judge, "a", n=64, batch_size=4, stop=Threshold(90))
    assert len(result.candidates) == first + 1
    assert result.stopped == "Threshold(score=90)"
    assert (result.generated, result.wasted) == ((first // 4 + 1) * 4, 4)
    assert result.generated + result.wasted == sum(map(len, sampler.calls))
    alone = best_of_n(sampler, judge, "a", n=64, batch_size=4, stop=Threshold(90), executor=Local(overlap=False))
    assert alone.wasted == 0
    assert alone == result


def test_progress_rises_to_the_end(sampler, judge):
    seen = []
    result = best_of_n(sampler, judge, "a", n=10, batch_size=4, on_progress=seen.append)
    assert [step.judged for step in seen] == [4, 8, 10]
    assert [step.generated for step in seen] == [8, 10, 10]  # the next batch is drawn already
    assert (seen[-1].best_seed, seen[-1].best_score) == (result.best.seed, result.best.score)


def test_scores_may_be_any_numbers(sampler):
    result = best_of_n(sampler, lambda prompt, images: range(len(images)), "a", n=4)
    assert [type(candidate.score) for candidate in result.candidates] == [float] * 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n": 2, "keep": 3}, "n is 2 and keep 3"),
        ({"n": 0}, "n is 0; .* at least 1"),
        ({"n": 4, "keep": 0}, "keep is 0; .* at least 1"),
        ({"n": 4, "batch_size": 0}, "batch_size is 0"),
        ({"n": 4, "seed": -1}, "seed is -1"),
        ({"n": 4.0}, "n is 4.0; .* whole number"),
    ],
)
def test_senseless_numbers_are_refused_before_anything_is_drawn(sampler, judge, wrong, words):
    with pytest.raises(ValueError, match=words):
        best_of_n(sampler, judge, "a", **wrong)
    assert sampler.calls == []


def test_what_is_not_callable_is_refused(sampler, judge):
    with pytest.raises(TypeError, match=r"the sampler is None .* both must be callable"):
        best_of_n(None, judge, "a", n=1)
    with pytest.raises(TypeError, match="one str"):
        best_of_n(sampler, judge, ["a", "b"], n=1)
    with pytest.raises(TypeError, match="Threshold"):
        best_of_n(sampler, judge, "a", n=1, stop=[0.9])


@pytest.mark.parametrize("change", [lambda images: images[:-1], lambda images: [*images, "more"]])
def test_a_sampler_with_the_wrong_number_of_images_is_told(sampler, judge, change):
    with pytest.raises(ValueError, match=r"gave [35] images for 4 seeds \(0 to 3\) of 'a'"):
        best_of_n(lambda prompt, seeds: change(sampler(prompt, seeds)), judge, "a", n=8, batch_size=4)
