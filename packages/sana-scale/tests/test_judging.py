import math
import threading

import pytest

from sana_scale import best_of_n


def failing(judge, at, how, times):
    """The judge, but the batch that starts with seed `at` goes wrong so many times."""
    left = times

    def score(prompt, images):
        nonlocal left
        scores = judge(prompt, images)
        if left and images[0] == f"a:{at}":
            left -= 1
            return how(scores)
        return scores

    return score


def out_of_memory(scores):
    raise MemoryError("no room for the judge")


WRONG = {
    "nan": (lambda scores: [math.nan, *scores[1:]], ValueError, "nan for seed 4"),
    "infinite": (lambda scores: [*scores[:-1], math.inf], ValueError, "inf for seed 7"),
    "short": (lambda scores: scores[1:], ValueError, "3 scores for 4 images"),
    "long": (lambda scores: [*scores, 1.0], ValueError, "5 scores for 4 images"),
    "raises": (out_of_memory, MemoryError, "no room"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_judge_that_goes_wrong_once_is_asked_again(sampler, judge, how):
    whole = best_of_n(sampler, judge, "a", n=12, batch_size=4)
    sampler.calls.clear()
    assert best_of_n(sampler, failing(judge, 4, WRONG[how][0], times=1), "a", n=12, batch_size=4) == whole
    assert len(sampler.calls) == 3  # nothing is drawn again for it


@pytest.mark.parametrize("how", WRONG)
def test_a_judge_that_goes_wrong_twice_is_reported_with_the_seeds(sampler, judge, how):
    change, kind, words = WRONG[how]
    with pytest.raises(kind, match=words) as caught:
        best_of_n(sampler, failing(judge, 4, change, times=2), "a", n=12, batch_size=4)
    assert "while judging the seeds 4 to 7 of 'a'" in caught.value.__notes__


def test_the_second_time_the_judge_has_the_machine_to_itself(sampler, judge):
    drawing = threading.Event()
    together = []

    def sample(prompt, seeds):
        drawing.set()
        try:
            return sampler(prompt, seeds)
        finally:
            drawing.clear()

    def score(prompt, images):
        together.append((threading.current_thread() is threading.main_thread(), drawing.is_set()))
        return out_of_memory(images) if len(together) == 1 else judge(prompt, images)

    best_of_n(sample, score, "a", n=8, batch_size=4)
    # Drawing happens in the main thread: what is judged there is judged alone.
    assert together[1] == (True, False)


def test_an_error_of_the_sampler_does_not_lose_the_batch_before(judge, paint, blue, tmp_path):
    def sample(prompt, seeds):
        if 8 in seeds:
            raise MemoryError("no room for the sampler")
        return paint(prompt, seeds)

    with pytest.raises(MemoryError, match="sampler"):
        best_of_n(sample, blue, "a", n=12, batch_size=4, run_dir=tmp_path / "run")
    best_of_n(paint, blue, "a", n=12, batch_size=4, run_dir=tmp_path / "run")
    assert sorted(paint.seeds) == list(range(12))
