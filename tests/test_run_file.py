from dataclasses import dataclass
from typing import Literal

import pytest

from sana.training.run_file import fill, read_run_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    count: int
    rate: float = 0.5
    limit: float | None = 1.0
    mode: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    flag: bool = False

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1")


@pytest.fixture
def read(tmp_path):
    def read(text, *changes):
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return read_run_file(path, changes)

    return read


def test_a_section_fills_a_dataclass(read):
    sections = read(
        '[x]\ncount = 3\nrate = 1\nlimit = "none"\nmode = "b"\npair = [1, 2.5]\nnames = ["猫"]\nflag = true'
    )
    filled = fill(Settings, sections["x"], where="[x]")
    assert filled == Settings(count=3, rate=1.0, limit=None, mode="b", pair=(1.0, 2.5), names=("猫",), flag=True)
    assert isinstance(filled.rate, float)


def test_changes_replace_settings_and_take_texts_without_quotes(read):
    changes = ("x.count=5", "x.mode = b", "x.limit=none", "x.pair=[3, 4]", "y.path=runs/a=b", 'y.name="12"')
    sections = read("[x]\ncount = 3", *changes)
    assert fill(Settings, sections["x"], where="[x]") == Settings(count=5, mode="b", limit=None, pair=(3.0, 4.0))
    assert sections["y"] == {"path": "runs/a=b", "name": "12"}


@pytest.mark.parametrize("change", ["count=5", "x.count", "=5", "x.=5", ".count=5", ""])
def test_a_change_of_another_form_is_refused(read, change):
    with pytest.raises(ValueError, match=r"--set is .*; give section\.key=value"):
        read("", change)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("count = 0", r"\[x\] count is 0; it must be at least 1"),
        ("count = 2.0", r"\[x\] count is 2\.0; it must be a whole number"),
        ("count = true", "count is true; it must be a whole number"),
        ('rate = "fast"', "rate is 'fast'; it must be a finite number"),
        ("rate = nan", "rate is nan; it must be a finite number"),
        ('limit = "nothing"', "limit is 'nothing'; it must be a finite number, or \"none\""),
        ('rate = "none"', "rate is 'none'"),
        ('mode = "c"', "mode is 'c'; it must be one of 'a', 'b'"),
        ("pair = [1]", r"pair is \[1\]; it must be a list of 2, each a finite number"),
        ("names = [1]", "names is .*; it must be a list, each a string in quotes"),
        ("flag = 1", "flag is 1; it must be true or false"),
        (
            "cuont = 1",
            r"\[x\] has no cuont, perhaps count was meant; it has count, rate, limit, mode, pair, names, flag",
        ),
        ("rate = 1", r"\[x\] lacks count: add it"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(read, setting, message):
    count = "" if "count" in setting or setting == "rate = 1" else "count = 1\n"
    with pytest.raises(ValueError, match=message):
        fill(Settings, read(f"[x]\n{count}{setting}")["x"], where="[x]")


def test_a_file_that_is_no_run_file_is_named(read, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no run file .*nowhere\.toml"):
        read_run_file(tmp_path / "nowhere.toml")
    with pytest.raises(ValueError, match=r"run\.toml is not TOML: .*line 2"):
        read("[x]\ncount = \n")
    with pytest.raises(ValueError, match=r"run\.toml has count outside of a section"):
        read("count = 1")
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"is not TOML"):
        read_run_file(tmp_path / "run.toml")
