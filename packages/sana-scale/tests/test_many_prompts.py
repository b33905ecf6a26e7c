import pytest

from sana_scale import Threshold, best_of_n, best_of_n_many

# How good an image of a prompt is at best: the third one never reaches 90.
HARDNESS = {"easy": 400, "fair": 120, "hard": 60}


@pytest.fixture
def graded(value):
    def score(prompt, images):
        return [min(100.0, value(int(image.split(":")[1])) * HARDNESS[prompt] / 100) for image in images]

    return score


def test_without_a_budget_each_prompt_is_a_run_of_its_own(sampler, graded):
    results = best_of_n_many(sampler, graded, list(HARDNESS), n=20, keep=2, batch_size=4, stop=Threshold(90))
    for prompt, result in zip(HARDNESS, results, strict=True):
        alone = best_of_n(sampler, graded, prompt, n=20, keep=2, batch_size=4, stop=Threshold(90))
        assert (result.candidates, result.stopped) == (alone.candidates, alone.stopped)


def test_what_easy_prompts_leave_goes_to_the_hard_one(sampler, graded):
    easy, fair, hard = best_of_n_many(
        sampler, graded, list(HARDNESS), n=64, budget=48, batch_size=4, stop=Threshold(90)
    )
    assert easy.generated == 4
    assert easy.generated + fair.generated + hard.generated == 48 == sum(map(len, sampler.calls))
    assert hard.generated > 48 / 3
    assert hard.stopped == "the budget of 48 images for all prompts"


def test_in_the_last_round_the_hardest_come_first(sampler, graded):
    results = best_of_n_many(sampler, graded, list(HARDNESS), n=64, budget=16, batch_size=4)
    assert [result.generated for result in results] == [4, 4, 8]


def test_the_budget_is_never_passed_by_part_of_a_batch(sampler, graded):
    results = best_of_n_many(sampler, graded, list(HARDNESS), n=64, budget=19, batch_size=4)
    assert sum(result.generated for result in results) == 16


def test_progress_is_that_of_the_prompt_whose_batch_was_judged(sampler, graded):
    seen = []
    best_of_n_many(sampler, graded, list(HARDNESS), n=4, batch_size=4, on_progress=seen.append)
    assert [(step.prompt, step.judged) for step in seen] == [("easy", 4), ("fair", 4), ("hard", 4)]


@pytest.mark.parametrize("interrupted_at", range(1, 10))
def test_a_run_that_was_interrupted_gives_everyone_the_same(paint, blue, tmp_path, interrupted_at):
    prompts = ["a", "b", "a"]  # the same prompt twice is two runs
    shift = {"a": 0, "b": 40}
    score = lambda prompt, images: [worth + shift[prompt] for worth in blue(prompt, images)]  # noqa: E731
    ask = {"n": 24, "budget": 36, "batch_size": 4, "stop": Threshold(120), "run_dir": tmp_path}
    whole = best_of_n_many(paint, score, prompts, **ask | {"run_dir": None})
    steps = []

    def interrupt(progress):
        steps.append(progress)
        if len(steps) == interrupted_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        best_of_n_many(paint, score, prompts, on_progress=interrupt, **ask)
    assert best_of_n_many(paint, score, prompts, **ask) == whole
    paint.seeds.clear()
    assert best_of_n_many(paint, score, prompts, **ask) == whole
    assert paint.seeds == []


def test_other_prompts_or_budgets_need_another_directory(paint, blue, tmp_path):
    best_of_n_many(paint, blue, ["a", "b"], n=4, run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"prompts was \['a', 'b'\] and is now \['a', 'c'\]"):
        best_of_n_many(paint, blue, ["a", "c"], n=4, run_dir=tmp_path)
    with pytest.raises(ValueError, match="budget was 8 and is now 6"):
        best_of_n_many(paint, blue, ["a", "b"], n=4, batch_size=1, budget=6, run_dir=tmp_path)


@pytest.mark.parametrize(
    ("prompts", "ask", "words"),
    [
        ([], {"n": 4}, "at least one prompt"),
        ("a cat", {"n": 4}, "at least one prompt"),
        (["a", "b"], {"n": 8, "budget": 7, "batch_size": 4}, "budget is 7; .* that takes 8"),
        (["a", "b"], {"n": 8, "keep": 6, "budget": 15, "batch_size": 4}, "that takes 16"),
        (["a", "b"], {"n": 2, "keep": 3}, "n is 2 and keep 3"),
    ],
)
def test_senseless_requests_are_refused(sampler, judge, prompts, ask, words):
    with pytest.raises(ValueError, match=words):
        best_of_n_many(sampler, judge, prompts, **ask)
    assert sampler.calls == []
