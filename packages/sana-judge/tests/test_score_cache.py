import pickle
import subprocess
import sys
from dataclasses import replace

import pytest

from sana_judge.judge_score import Answer
from sana_judge.score_cache import ScoreCache, ScoreKey

KEY = ScoreKey(image_hash="cat.png", prompt="a 'cat'; DROP TABLE scores", judge="v1")
ANSWER = Answer(logit_yes=0.1, logit_no=-2.5, log_z=3.0, says_yes=True, tiles=10)

WRITER = """
import sys
from sana_judge.judge_score import Answer
from sana_judge.score_cache import ScoreCache, ScoreKey
cache = ScoreCache(sys.argv[1])
for i in range(40):
    key = ScoreKey(image_hash=str(i), prompt=sys.argv[2], judge="v1")
    cache.keep({key: Answer(logit_yes=i, logit_no=0.0, log_z=0.0, says_yes=True, tiles=1)})
    assert cache.find([key])[0].logit_yes == i
"""


@pytest.fixture
def cache(tmp_path):
    return ScoreCache(tmp_path / "new" / "scores.db")


def test_what_is_kept_is_found_unchanged_in_order(cache):
    other = replace(KEY, image_hash="dog.png")
    cache.keep({KEY: ANSWER, other: replace(ANSWER, says_yes=False)})
    assert cache.find([other, KEY]) == [replace(ANSWER, says_yes=False), ANSWER]


@pytest.mark.parametrize("field", ["image_hash", "prompt", "judge"])
def test_every_part_of_the_key_counts(cache, field):
    cache.keep({KEY: ANSWER})
    assert cache.find([replace(KEY, **{field: "another"}), KEY]) == [None, ANSWER]


def test_looking_creates_no_file(cache):
    assert cache.find([KEY]) == [None]
    assert not cache.path.parent.exists()


def test_a_later_answer_replaces_the_earlier(cache):
    cache.keep({KEY: ANSWER})
    cache.keep({KEY: replace(ANSWER, tiles=2)})
    assert cache.find([KEY])[0].tiles == 2


def test_it_can_be_sent_to_another_process(cache):
    cache.keep({KEY: ANSWER})
    assert pickle.loads(pickle.dumps(cache)).find([KEY]) == [ANSWER]


def test_several_processes_write_at_once(cache):
    arguments = [sys.executable, "-c", WRITER, str(cache.path)]
    writers = [subprocess.Popen([*arguments, name], stderr=subprocess.PIPE) for name in "abc"]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [(b"", 0)] * 3
    keys = [ScoreKey(image_hash=str(i), prompt=name, judge="v1") for i in range(40) for name in "abc"]
    assert [answer.logit_yes for answer in cache.find(keys)] == [i for i in range(40) for _ in "abc"]


def test_another_kind_of_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to look at " * 30)
    before = path.read_bytes()
    for use in (lambda: ScoreCache(path).find([KEY]), lambda: ScoreCache(path).keep({KEY: ANSWER})):
        with pytest.raises(ValueError, match="is not a cache of scores"):
            use()
    assert path.read_bytes() == before


def test_a_folder_is_refused_before_anything_is_judged(tmp_path):
    with pytest.raises(ValueError, match="is a folder: name a file"):
        ScoreCache(tmp_path)
