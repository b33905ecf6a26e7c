import numpy as np
import pytest

from sana import SanaPipeline
from sana.previews import look_steps
from sana_scale import Halving, PreviewingSampler, best_of_n


@pytest.fixture(scope="module")
def pipeline(small_folder):
    return SanaPipeline.from_pretrained(small_folder, device="cpu")


def pixels(picture):
    return np.asarray(picture).astype(int)


def everyone(images):
    return range(len(images))


def test_a_pipeline_is_a_previewing_sampler(pipeline):
    assert isinstance(pipeline, PreviewingSampler)


def test_pictures_that_nobody_gives_up_are_those_of_a_call(pipeline):
    shown = pipeline.previewing("a cat", [3, 1, 2], at=(0.25, 0.5), keep=everyone, steps=4)
    called = pipeline("a cat", [3, 1, 2], steps=4, progress=False)
    assert [seed for seed, _ in shown] == [3, 1, 2]
    assert all(picture == other for (_, picture), other in zip(shown, called, strict=True))


def test_those_who_go_on_end_as_if_they_had_been_alone(pipeline):
    looks = []

    def keep(images):
        looks.append(len(images))
        return [2, 0] if len(looks) == 1 else [1]

    shown = pipeline.previewing("a cat", [5, 6, 7], at=(0.25, 0.5), keep=keep, steps=4)
    assert looks == [3, 2]
    ((seed, picture),) = shown
    assert seed == 7
    (alone,) = pipeline("a cat", [7], steps=4, progress=False)
    # Another batch shape may round a pixel the other way.
    assert np.abs(pixels(picture) - pixels(alone)).max() <= 1


def test_who_is_given_up_costs_no_further_evaluations(pipeline):
    rows = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda model, args: rows.append(len(args[0])))
    pipeline.previewing("a cat", range(4), at=(0.5,), keep=lambda images: [0], steps=4)
    hook.remove()
    assert rows == [8, 8, 2, 2]  # both halves of guidance


def test_a_batch_bounds_what_is_evaluated_at_once(pipeline):
    rows = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda model, args: rows.append(len(args[0])))
    pipeline.previewing("a cat", range(5), at=(0.5,), keep=everyone, steps=2, guidance_scale=1, batch_size=2)
    hook.remove()
    assert rows == [2, 2, 1] * 2


def test_the_last_preview_is_close_to_the_picture(pipeline):
    seen = []

    def keep(images):
        seen.append(pixels(images[0]))
        return [0]

    ((_, picture),) = pipeline.previewing("a cat", [0], at=(0.1, 0.9), keep=keep, steps=10)
    early, late = (np.abs(preview - pixels(picture)).mean() for preview in seen)
    assert late < early


def test_sprint_shows_its_first_step(sprint_folder):
    pipeline = SanaPipeline.from_pretrained(sprint_folder, device="cpu")
    shown = pipeline.previewing("a cat", [0, 1], at=(0.25,), keep=lambda images: [1], steps=2)
    (whole,) = pipeline("a cat", [1], steps=2, progress=False)
    assert [seed for seed, _ in shown] == [1]
    assert np.abs(pixels(shown[0][1]) - pixels(whole)).max() <= 1


def test_pruning_works_with_a_pipeline(pipeline):
    def brightness(prompt, images):
        return [float(pixels(image).mean()) for image in images]

    def sampler(prompt, seeds):
        return pipeline(prompt, seeds, progress=False)

    sampler.previewing = pipeline.previewing
    halving = Halving(at=(0.5,), pilot=4, min_correlation=-1)
    result = best_of_n(sampler, brightness, "a cat", n=8, batch_size=4, prune=halving)
    assert len(result.pruned) == 2
    assert result.cost == 7
    assert result.pilot.used == (0.5,)


@pytest.mark.parametrize(
    ("seeds", "options", "words"),
    [
        ([0], {"batch_size": 0}, "batch_size is 0"),
        ([-1], {}, "a seed is -1"),
        ([], {}, "1 prompts and 0 seeds|0 seeds"),
    ],
)
def test_what_a_call_refuses_is_refused(pipeline, seeds, options, words):
    with pytest.raises(ValueError, match=words):
        pipeline.previewing("a cat", seeds, at=(0.5,), keep=everyone, steps=2, **options)


@pytest.mark.parametrize(("at", "steps", "expected"), [((0.25,), 20, [4]), ((0.1, 0.5), 10, [0, 4]), ((), 1, [])])
def test_looks_fall_after_the_fraction_of_the_steps(at, steps, expected):
    assert look_steps(at, steps) == expected


@pytest.mark.parametrize(("at", "steps"), [((0.25,), 1), ((0.25, 0.5), 2), ((0.99,), 20)])
def test_looks_that_steps_have_no_room_for_are_refused(at, steps):
    with pytest.raises(ValueError, match="looks must be at different"):
        look_steps(at, steps)


@pytest.mark.parametrize("places", [[], [2], [0, 0], [-1]])
def test_places_that_are_none_are_refused(pipeline, places):
    with pytest.raises(ValueError, match="keep chose"):
        pipeline.previewing("a cat", [0, 1], at=(0.5,), keep=lambda images: places, steps=2)
