import errno
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from sana_scale import Budget, Halving, Threshold, best_of_n, run_claim
from sana_scale.files import RunInUseError
from sana_scale.request import Request
from sana_scale.run_directory import RunDirectory

KILLED_RUN = Path(__file__).with_name("killed_run.py")
# Where syncing to the disk costs nothing: two hundred runs that sync thirty times each.
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def test_a_run_on_disk_gives_what_one_in_memory_gives(paint, blue, tmp_path):
    ask = {"n": 30, "keep": 3, "batch_size": 4, "stop": Threshold(95)}
    assert best_of_n(paint, blue, "a", run_dir=tmp_path / "run", **ask) == best_of_n(paint, blue, "a", **ask)


def test_a_finished_run_holds_its_scores_and_the_kept_images_alone(paint, blue, tmp_path):
    result = best_of_n(paint, blue, "a", n=30, keep=3, batch_size=4, run_dir=tmp_path)
    kept = [f"best-{rank:02d}-seed-{candidate.seed}.png" for rank, candidate in enumerate(result.candidates[:3], 1)]
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == kept
    for name, image in zip(kept, result.images, strict=True):
        with Image.open(tmp_path / name) as stored:
            assert stored.tobytes() == image.tobytes()
    units = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("units/*/unit.json"))]
    assert [score for unit in units for score in unit["scores"]] == result.scores
    assert [seed for unit in units for seed in unit["seeds"]] == list(range(30))


def test_a_finished_run_returns_at_once(paint, blue, tmp_path):
    ask = {"n": 12, "keep": 2, "batch_size": 4, "run_dir": tmp_path, "stop": Budget(images=9)}
    first = best_of_n(paint, blue, "a", **ask)
    paint.seeds.clear()
    assert best_of_n(paint, blue, "a", **ask) == first
    assert paint.seeds == []


def test_looking_at_the_kept_images_of_a_run_removes_nothing(paint, blue, tmp_path):
    result = best_of_n(paint, blue, "a", n=8, keep=2, batch_size=4, run_dir=tmp_path)
    (tmp_path / "best-of-all.png").write_text("mine")
    directory = RunDirectory(tmp_path, Request(prompt="a", n=8, keep=2, batch_size=4, seed=0, stop=(), prune=None))
    assert list(directory.kept()) == [candidate.seed for candidate in result.candidates[:2]]
    assert (tmp_path / "best-of-all.png").exists()


def test_no_more_images_are_written_than_may_still_win(paint, tmp_path):
    stored = []

    def look(progress):
        stored.append(len(list(tmp_path.glob("units/*/*.png"))))

    best_of_n(paint, lambda p, images: [-sum(i.getpixel((0, 0))[:1]) for i in images], "a", n=40, keep=2,
              run_dir=tmp_path, on_progress=look)  # fmt: skip
    assert stored == [2] * 5  # scores fall with the seed: the first two stay the best


@pytest.fixture(scope="module")
def killed_runs():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        command = [sys.executable, str(KILLED_RUN), folder]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def test_killed_at_any_change_of_the_directory_a_run_ends_the_same(killed_runs):
    assert len(killed_runs) > 30  # every file and folder of eight images in four batches, made, renamed or removed
    *killed, undisturbed = killed_runs
    for run in killed:
        assert run["after"][-1] == undisturbed["before"][-1]
        assert run["files"] == undisturbed["files"]


def test_killed_at_any_change_of_the_directory_a_run_draws_at_most_two_batches_again(killed_runs):
    *killed, undisturbed = killed_runs
    needed = [tuple(batch) for batch in undisturbed["before"][:3]]  # the fourth batch is drawn in vain
    for run in killed:
        before = [tuple(batch) for batch in run["before"] if isinstance(batch, list)]
        after = [tuple(batch) for batch in run["after"][:-1]]
        assert set(needed) <= set(before + after)
        assert set(before) & set(after) <= set(before[-2:])
        assert max(Counter(after).values(), default=1) == 1


SLOW_RUN = """
import sys, time
from PIL import Image
from sana_scale import best_of_n

def paint(prompt, seeds):
    for seed in seeds:
        time.sleep(0.004)
        print(seed, flush=True)
    return [Image.new("L", (2, 2), seed * 37 % 101) for seed in seeds]

def score(prompt, images):
    time.sleep(0.008)
    return [image.getpixel((0, 0)) for image in images]

result = best_of_n(paint, score, "a", n=60, keep=3, batch_size=3, run_dir=sys.argv[1])
print(f"end {[candidate.seed for candidate in result.candidates]}", flush=True)
"""


def test_killed_at_random_moments_a_run_ends_the_same(tmp_path):
    moments, drawn, lives = random.Random(0), Counter(), 0
    lines = []
    while not lines or not lines[-1].startswith("end") or not lines[-1].endswith("]"):
        command = [sys.executable, "-c", SLOW_RUN, str(tmp_path / "run")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as life:
            lines = [life.stdout.readline().strip()]  # it has started to draw
            time.sleep(moments.uniform(0.05, 0.2))
            life.send_signal(signal.SIGKILL if lives < 4 else 0)
            lines += life.stdout.read().splitlines()
        drawn.update(int(line) for line in lines if line.isdecimal())
        lives += 1
    assert lives > 1
    assert set(drawn) == set(range(60))
    assert sum(drawn.values()) <= 60 + (lives - 1) * 2 * 3
    expected = sorted(range(60), key=lambda seed: (-(seed * 37 % 101), seed))
    assert lines[-1] == f"end {expected}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "b"}, "prompt was 'a' and is now 'b'"),
        ({"n": 4}, "n was 8 and is now 4"),
        ({"n": 16, "seed": 1}, "n was 8 and is now 16, seed was 0 and is now 1"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"keep": 2}, "keep was 1 and is now 2"),
        ({"batch_size": 2}, "batch_size was 4 and is now 2"),
        ({"stop": Threshold(0.5)}, "stop was .* and is now .*Threshold.*0.5"),
    ],
)
def test_a_run_directory_of_another_configuration_says_what_differs(paint, blue, tmp_path, change, words):
    ask = {"prompt": "a", "n": 8, "batch_size": 4, "run_dir": tmp_path}
    best_of_n(paint, blue, **ask)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(ValueError, match=words):
        best_of_n(paint, blue, **ask | change)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "ask",
    [{"keep": 3}, {"stop": Threshold(95)}, {"stop": Threshold(40)}, {"keep": 2, "prune": Halving(pilot=4)}],
    ids=str,
)
def test_eight_and_then_sixteen_are_sixteen_at_once(paint, blue, tmp_path, ask):
    def previewing(prompt, seeds, *, at, keep):
        for _ in at:
            seeds = [seeds[place] for place in keep(paint(prompt, seeds))]
        return list(zip(seeds, paint(prompt, seeds), strict=True))

    paint.previewing = previewing
    ask = {"batch_size": 4} | ask
    at_once = best_of_n(paint, blue, "a", n=16, run_dir=tmp_path / "once", **ask)
    first = best_of_n(paint, blue, "a", n=8, run_dir=tmp_path / "twice", **ask)
    paint.seeds.clear()
    assert best_of_n(paint, blue, "a", n=16, run_dir=tmp_path / "twice", **ask) == at_once
    assert not set(paint.seeds) & {candidate.seed for candidate in first.candidates}
    names = [{path.relative_to(run) for path in run.rglob("*.png")} for run in (tmp_path / "once", tmp_path / "twice")]
    assert names[0] == names[1]


def test_a_batch_that_a_smaller_run_cut_short_is_not_continued(paint, blue, tmp_path):
    best_of_n(paint, blue, "a", n=6, batch_size=4, run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"n was 6 and is now 8.* whose n was a multiple of batch_size"):
        best_of_n(paint, blue, "a", n=8, batch_size=4, run_dir=tmp_path)
    assert best_of_n(paint, blue, "a", n=6, batch_size=4, run_dir=tmp_path).generated == 6


@pytest.mark.parametrize("step", [(os, "replace"), (os, "unlink"), (run_claim, "write_json")], ids=str)
def test_a_run_killed_while_it_is_reopened_goes_on(paint, blue, tmp_path, monkeypatch, step):
    ask = {"keep": 3, "batch_size": 4, "run_dir": tmp_path / "run"}
    first = best_of_n(paint, blue, "a", n=8, **ask)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*step, killed)
        with pytest.raises(KeyboardInterrupt):
            best_of_n(paint, blue, "a", n=16, **ask)
    assert best_of_n(paint, blue, "a", n=8, **ask) == first
    assert best_of_n(paint, blue, "a", n=16, **ask) == best_of_n(paint, blue, "a", n=16, keep=3, batch_size=4)


def test_a_file_system_without_locks_is_a_warning(paint, blue, tmp_path, monkeypatch, caplog):
    def unknown(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    assert best_of_n(paint, blue, "a", n=8, run_dir=tmp_path).generated == 8
    assert f"{tmp_path} cannot be locked" in caplog.text


def test_a_foreign_run_json_is_left_alone(paint, blue, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run\.json is not what sana_scale writes"):
        best_of_n(paint, blue, "a", n=8, run_dir=tmp_path)
    assert (tmp_path / "run.json").read_text() == "{}"


def test_a_unit_of_another_run_is_not_counted(paint, blue, tmp_path):
    best_of_n(paint, blue, "a", n=8, batch_size=4, run_dir=tmp_path / "a")
    best_of_n(paint, blue, "b", n=8, batch_size=4, run_dir=tmp_path / "b")
    (tmp_path / "b/result.json").unlink()
    os.replace(tmp_path / "a/units/000001/unit.json", tmp_path / "b/units/000001/unit.json")
    with pytest.raises(ValueError, match="another run"):
        best_of_n(paint, blue, "b", n=8, batch_size=4, run_dir=tmp_path / "b")


def test_a_second_driver_is_told_who_the_first_is(paint, blue, tmp_path):
    messages = []

    def second(progress):
        with pytest.raises(RunInUseError) as caught:
            best_of_n(paint, blue, "a", n=8, batch_size=4, run_dir=tmp_path)
        messages.append(str(caught.value))

    best_of_n(paint, blue, "a", n=8, batch_size=4, run_dir=tmp_path, on_progress=second)
    assert len(messages) == 2
    assert f"{tmp_path} is in use by process {os.getpid()} on " in messages[0]
    assert sorted(paint.seeds) == list(range(8))


def test_a_killed_driver_holds_no_lock(paint, blue, tmp_path):
    code = SLOW_RUN.replace("0.004", "10")
    life = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "lock").exists() or not (tmp_path / "lock").read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ask = {"n": 60, "keep": 3, "batch_size": 3, "run_dir": tmp_path}
    try:
        with pytest.raises(RuntimeError, match=f"process {life.pid}"):
            best_of_n(paint, blue, "a", **ask)
    finally:
        life.kill()
        life.wait()
    assert best_of_n(paint, blue, "a", **ask).generated == 60


def noisy(prompt, seeds):
    return [Image.frombytes("L", (64, 64), random.Random(seed).randbytes(4096)) for seed in seeds]


def test_a_full_disk_ends_the_run_cleanly_and_it_resumes(tmp_path):
    """A limit on the size of files stands for the disk: below it records fit and pictures do not."""
    ask = {"n": 12, "batch_size": 4, "run_dir": tmp_path}
    seeds = []

    def paint(prompt, batch):
        seeds.extend(batch)
        if 8 in batch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
        return noisy(prompt, batch)

    rising = lambda prompt, images: [image.getpixel((0, 0)) + 1000 * len(seeds) for image in images]  # noqa: E731
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            best_of_n(paint, rising, "a", **ask)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "make room, and the same call goes on" in caught.value.__notes__[0]
    assert [path.name for path in (tmp_path / "units").iterdir() if path.name.startswith(".")] == []
    there = len(list((tmp_path / "units").iterdir()))
    seeds.clear()
    result = best_of_n(lambda prompt, batch: seeds.extend(batch) or noisy(prompt, batch), rising, "a", **ask)
    assert seeds == list(range(4 * there, 12))
    assert result.images == noisy("a", [result.best.seed])


def test_only_pictures_that_png_holds_are_stored(sampler, judge, tmp_path):
    with pytest.raises(TypeError, match="has to give PIL images; it gave <class 'str'>"):
        best_of_n(sampler, judge, "a", n=4, run_dir=tmp_path / "text")
    with pytest.raises(ValueError, match="mode of an image is 'CMYK'"):
        best_of_n(lambda p, seeds: [Image.new("CMYK", (2, 2)) for _ in seeds], lambda p, i: [0.0] * len(i), "a", n=4,
                  run_dir=tmp_path / "cmyk")  # fmt: skip
    assert list(tmp_path.glob("*/units/*")) == []


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_kept_pictures_keep_every_pixel(mode, tmp_path):
    picture = Image.effect_noise((8, 8), 50).convert(mode)
    result = best_of_n(lambda p, s: [picture] * len(s), lambda p, i: [0.0] * len(i), "a", n=2, run_dir=tmp_path)
    assert result.images[0].convert("RGBA").tobytes() == picture.convert("RGBA").tobytes()
    assert result.images[0].mode == mode


def test_a_rule_that_cannot_be_written_down_is_refused(paint, blue, tmp_path):
    with pytest.raises(TypeError, match="dataclasses"):
        best_of_n(paint, blue, "a", n=4, run_dir=tmp_path, stop=lambda scores, seconds: False)


def test_pruning_is_part_of_the_configuration():
    with pytest.raises(ValueError, match="keep=20 needs more"):
        best_of_n(lambda p, s: s, lambda p, i: i, "a", n=32, keep=20, prune=Halving(keep=0.2))


@pytest.mark.parametrize("content", ["", "{}", "[]"])
def test_a_damaged_record_is_named(paint, blue, tmp_path, content):
    ask = {"n": 8, "batch_size": 4, "run_dir": tmp_path}
    result = best_of_n(paint, blue, "a", **ask)
    (tmp_path / "result.json").unlink()
    (tmp_path / "units/000001/unit.json").write_text(content)
    with pytest.raises(ValueError, match=r"000001.unit\.json is damaged .* remove that unit's folder"):
        best_of_n(paint, blue, "a", **ask)
    for unit in ("000000", "000001"):  # images that lost are gone with the end of the first run
        shutil.rmtree(tmp_path / "units" / unit)
    assert best_of_n(paint, blue, "a", **ask) == result


def test_a_run_directory_that_is_a_file_is_refused(paint, blue, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a file; it must be a folder"):
        best_of_n(paint, blue, "a", n=4, run_dir=tmp_path / "file")


def test_whole_numbers_of_numpy_are_whole_numbers(paint, blue, tmp_path):
    class Whole:  # what NumPy's integers are for Python
        def __index__(self):
            return 4

    ask = {"n": Whole(), "seed": Whole(), "batch_size": Whole(), "keep": Whole(), "run_dir": tmp_path}
    result = best_of_n(paint, blue, "a", **ask)
    assert result == best_of_n(paint, blue, "a", n=4, seed=4, batch_size=4, keep=4)
