import pytest

from sana_train.folders import replace_file, replace_folder, replacing


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("first", "second"):
        replace_folder(tmp_path / "model", lambda new, content=content: (new / content).write_text(content))
        assert names(tmp_path) == ["model", f"model/{content}"]


def test_a_failed_write_leaves_the_old_folder_and_nothing_else(tmp_path):
    def fail(new):
        (new / "half").write_text("b")
        raise OSError("disk full")

    replace_folder(tmp_path / "model", lambda new: (new / "whole").write_text("a"))
    with pytest.raises(OSError, match="disk full"):
        replace_folder(tmp_path / "model", fail)
    assert names(tmp_path) == ["model", "model/whole"]


def test_leftovers_of_a_kill_are_replaced(tmp_path):
    for leftover in ("model.new/model", "model.old"):  # killed between the two renames
        (tmp_path / leftover).mkdir(parents=True)
        (tmp_path / leftover / "stale").write_text("x")
    replace_folder(tmp_path / "model", lambda new: (new / "good").write_text("a"))
    assert names(tmp_path) == ["model", "model/good"]


def test_the_folder_is_found_by_its_own_name_while_it_is_written(tmp_path):
    seen = []
    replace_folder(tmp_path / "model", lambda new: seen.append(new.name))
    assert seen == ["model"]


def test_a_file_is_replaced_whole(tmp_path):
    for content in (b"first", b"second"):
        replace_file(tmp_path / "plan", content)
    assert (tmp_path / "plan").read_bytes() == b"second"
    assert names(tmp_path) == ["plan"]


def test_a_file_that_is_not_written_to_the_end_is_as_it_was(tmp_path):
    replace_file(tmp_path / "plan", b"old")

    def fail():
        with replacing(tmp_path / "plan") as staging:
            staging.write_bytes(b"n")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (tmp_path / "plan").read_bytes() == b"old"
    assert names(tmp_path) == ["plan"]


def test_a_file_in_no_folder_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "none" / "plan", b"x")
    assert names(tmp_path) == []
