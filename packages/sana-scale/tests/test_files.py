import errno
from pathlib import Path

from sana_scale.files import read_text


def test_a_file_that_another_machine_replaced_meanwhile_is_read_again(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("new")
    read, failures = Path.read_text, [OSError(errno.ESTALE, "Stale file handle")]

    def stale(path, **options):
        if failures:
            raise failures.pop()
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", stale)
    assert read_text(tmp_path / "file") == "new"
    assert failures == []
