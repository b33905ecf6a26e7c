import pytest

from sana_judge.whole_files import (
    append_json_lines,
    read_journal,
    read_json_lines,
    replace_file,
    write_json_lines,
)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.jsonl"
    write_json_lines(path, [{"n": 1}])
    with pytest.raises(TypeError):
        write_json_lines(path, [{"n": 2}, {"n": object()}])
    with pytest.raises(TypeError):
        replace_file(path, lambda temporary: temporary.write_bytes(b"half") and temporary.write_bytes("text"))
    assert read_json_lines(path) == [{"n": 1}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_journal_goes_on_after_a_line_that_was_cut(tmp_path):
    path = tmp_path / "new" / "journal.jsonl"
    append_json_lines(path, [{"n": 1}, {"n": 2}])
    path.write_bytes(path.read_bytes()[:-4])
    append_json_lines(path, [{"n": 3}])
    assert read_journal(path) == [{"n": 1}, {"n": 3}]


def test_a_journal_that_is_not_there_is_empty(tmp_path):
    assert read_journal(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("line", ["{", "[1]", '{"a": "\\ud8'])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n\n' + line)
    with pytest.raises(ValueError, match="line 3 of"):
        read_json_lines(tmp_path / "a.jsonl")


def test_letters_beyond_ascii_and_line_separators_stay_on_their_line(tmp_path):
    records = [{"prompt": "一只猫\u2028🐈\r\n"}, {"prompt": ""}]
    write_json_lines(tmp_path / "a.jsonl", records)
    assert read_json_lines(tmp_path / "a.jsonl") == records
