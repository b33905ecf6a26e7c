"""Scores that survive the process: one SQLite file, keyed by what was judged, what was asked and who judged."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

from sana_judge.judge_score import Answer

_TABLE = """
CREATE TABLE IF NOT EXISTS scores (
    image TEXT, prompt TEXT, judge TEXT,
    logit_yes REAL NOT NULL, logit_no REAL NOT NULL, log_z REAL NOT NULL, says_yes INTEGER NOT NULL,
    tiles INTEGER NOT NULL,
    PRIMARY KEY (image, prompt, judge)
) WITHOUT ROWID
"""
_READ = """
SELECT logit_yes, logit_no, log_z, says_yes, tiles FROM scores WHERE image = ? AND prompt = ? AND judge = ?
"""
_WRITE = """
INSERT OR REPLACE INTO scores
VALUES (:image_hash, :prompt, :judge, :logit_yes, :logit_no, :log_z, :says_yes, :tiles)
"""
# Seconds to wait while another process writes; a write takes milliseconds.
_PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreKey:
    """What a score is of, see `hash_image`, and from whom: the judge's revision and all that changes its answers."""

    image_hash: str
    prompt: str
    judge: str


class ScoreCache:
    """Scores in a file that many processes may use at once, on a local disk.

    Each call opens the file anew, so a cache can be pickled, forked and used from threads.
    """

    def __init__(self, path: str | PathLike[str]):
        """Takes the path of the file; it is created with its folder when something is first kept.

        Raises ValueError if the path is a folder.
        """
        self.path = Path(path)
        if self.path.is_dir():
            raise ValueError(f"the cache {self.path} is a folder: name a file, such as {self.path / 'scores.sqlite'}")

    def find(self, keys: Sequence[ScoreKey]) -> list[Answer | None]:
        """Returns what is known of each key. Raises ValueError if the file is not a cache of scores."""
        if not self.path.is_file():
            return [None] * len(keys)
        with self._open() as database:
            rows = [database.execute(_READ, (key.image_hash, key.prompt, key.judge)).fetchone() for key in keys]
        return [row and _answer(*row) for row in rows]

    def keep(self, answers: Mapping[ScoreKey, Answer]) -> None:
        """Keeps answers, all or none of them. Raises ValueError if the file is not a cache of scores."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.executemany(_WRITE, [asdict(key) | asdict(answer) for key, answer in answers.items()])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, timeout=_PATIENCE)
        try:
            with database:  # one transaction
                database.execute(_TABLE)
                yield database
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # a full disk, or a file that stays locked
            raise ValueError(f"{self.path} is not a cache of scores ({error}): delete it or name another") from error
        finally:
            database.close()


def _answer(logit_yes: float, logit_no: float, log_z: float, says_yes: int, tiles: int) -> Answer:
    return Answer(logit_yes=logit_yes, logit_no=logit_no, log_z=log_z, says_yes=bool(says_yes), tiles=tiles)
