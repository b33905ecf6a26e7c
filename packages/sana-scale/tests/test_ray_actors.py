import os
import signal
import subprocess
import sys
from functools import partial

import pytest
from PIL import Image

from sana_scale import Halving, Local, Ray, SharedDir, Threshold, best_of_n, best_of_n_many
from sana_scale.worker_processes import WorkersKilledError

ray = pytest.importorskip("ray")


def worth(seed):
    return seed * 7919 % 1009


class Painter:
    """Draws pixels that hold their seed's worth; previews are the image itself."""

    def __call__(self, prompt, seeds):
        return [Image.new("I;16", (1, 1), worth(seed) + len(prompt)) for seed in seeds]

    def previewing(self, prompt, seeds, *, at, keep):
        for _ in at:
            seeds = [seeds[place] for place in keep(self(prompt, seeds))]
        return list(zip(seeds, self(prompt, seeds), strict=True))


class Blind:
    def __call__(self, prompt, seeds):
        return [Image.new("I;16", (1, 1), worth(seed)) for seed in seeds]


class Reader:
    def __call__(self, prompt, images):
        return [image.getpixel((0, 0)) for image in images]


class Broken:
    def __call__(self, prompt, images):
        raise MemoryError("no room for the judge")


@pytest.fixture(scope="module")
def cluster():
    """One for all tests of this module, whose classes its workers cannot import."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


@pytest.mark.parametrize(
    ("samplers", "ask"), [(1, {}), (3, {"stop": Threshold(900)}), (2, {"prune": Halving(pilot=8)})], ids=str
)
def test_a_run_on_ray_gives_what_a_local_one_gives(cluster, tmp_path, ask, samplers):
    ask = {"n": 60, "keep": 3, "batch_size": 4} | ask
    executor = Ray(Painter, Reader, samplers=samplers)
    there = best_of_n(None, None, "a", run_dir=tmp_path / "run", executor=executor, **ask)
    here = best_of_n(Painter(), Reader(), "a", **ask)
    assert there == here
    assert (there.stopped, there.pruned, there.pilot) == (here.stopped, here.pruned, here.pilot)
    assert best_of_n(None, None, "a", run_dir=tmp_path / "run", executor=executor, **ask) == there


def test_a_run_of_many_prompts_shares_the_actors(cluster, tmp_path):
    ask = {"n": 16, "budget": 36, "batch_size": 4, "stop": Threshold(950)}
    prompts = ["a", "b cat", "a"]
    there = best_of_n_many(None, None, prompts, run_dir=tmp_path, executor=Ray(Painter, Reader, samplers=2), **ask)
    here = best_of_n_many(Painter(), Reader(), prompts, executor=Local(), **ask)
    assert [(one.candidates, one.stopped) for one in there] == [(one.candidates, one.stopped) for one in here]


def test_a_run_moves_from_ray_to_a_shared_folder_and_home(cluster, tmp_path):
    ask = {"n": 40, "keep": 2, "batch_size": 4, "run_dir": tmp_path}

    def interrupt_at(images):
        def interrupt(progress):
            if progress.judged == images:
                raise KeyboardInterrupt

        return interrupt

    for executor, images in ((Ray(Painter, Reader), 12), (SharedDir(Painter, Reader, workers=0), 12)):
        with pytest.raises(KeyboardInterrupt):
            best_of_n(None, None, "a", executor=executor, on_progress=interrupt_at(images), **ask)
    assert best_of_n(Painter(), Reader(), "a", **ask) == best_of_n(Painter(), Reader(), "a", **ask | {"run_dir": None})


def test_an_error_in_an_actor_is_raised_here_as_what_it_is(cluster, tmp_path):
    with pytest.raises(MemoryError, match="no room for the judge") as caught:
        best_of_n(None, None, "a", n=4, run_dir=tmp_path / "judge", executor=Ray(Painter, Broken))
    assert any("while judging the seeds" in note for note in caught.value.__notes__)
    with pytest.raises(TypeError, match="prune= needs a sampler with a method previewing"):
        best_of_n(
            None, None, "a", n=40, run_dir=tmp_path / "blind", executor=Ray(Blind, Reader), prune=Halving(pilot=4)
        )


def test_more_gpus_than_there_are_now_are_a_warning(cluster, tmp_path, caplog):
    executor = Ray(Painter, Reader, samplers=2, sampler_gpus=0.75, judge_gpus=0.25)
    with executor.working([], tmp_path):
        assert "take 1.75 GPUs and the cluster has 0 now" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"), [({"samplers": 0}, "samplers is 0"), ({"judge_gpus": -1}, "judge_gpus is -1")]
)
def test_senseless_pools_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Ray(Painter, Reader, **options)


def test_it_is_named_what_is_missing(tmp_path):
    code = """
import sys
sys.modules["ray"] = None
from sana_scale import Ray, best_of_n
try:
    best_of_n(None, None, "a", n=1, run_dir="run", executor=Ray(list, list))
except ImportError as error:
    print(error)
"""
    life = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert life.stdout.strip() == "Ray(...) needs ray: pip install 'sana-scale[ray]'"


class Mortal(Painter):
    """Its process is killed in the middle of the seeds from 20, once."""

    def __init__(self, scar):
        self.scar = scar

    def __call__(self, prompt, seeds):
        if 20 in seeds and not self.scar.exists():
            self.scar.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(prompt, seeds)


def test_a_killed_actor_loses_nothing(cluster, tmp_path):
    executor = Ray(partial(Mortal, tmp_path / "scar"), Reader, samplers=2)
    there = best_of_n(None, None, "a", n=60, keep=3, batch_size=4, run_dir=tmp_path / "run", executor=executor)
    assert (tmp_path / "scar").exists()
    assert there == best_of_n(Painter(), Reader(), "a", n=60, keep=3, batch_size=4)


def test_who_is_killed_too_often_ends_the_run(cluster, tmp_path):
    executor = Ray(partial(Mortal, tmp_path / "scar"), Reader, restarts=0)
    ask = {"n": 60, "batch_size": 4, "run_dir": tmp_path / "run", "executor": executor}
    with pytest.raises(WorkersKilledError, match="The same call goes on"):
        best_of_n(None, None, "a", **ask)
    assert best_of_n(None, None, "a", **ask).best.score == max(worth(seed) + 1 for seed in range(60))
