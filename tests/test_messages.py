import io
import logging
import subprocess
import sys

import pytest
import typer
from transformers.utils import logging as bars

from sana.commands.messages import RERUN, messages


def test_an_extra_that_is_missing_is_one_line(capsys):
    with pytest.raises(typer.Exit) as stopped, messages():
        raise ImportError("plots need matplotlib: pip install 'sana-judge[train]'")
    assert stopped.value.exit_code == 2
    assert capsys.readouterr().err == "error: plots need matplotlib: pip install 'sana-judge[train]'\n"


def test_an_import_that_no_extra_mends_keeps_its_traceback():
    with pytest.raises(ImportError, match="cannot import name"), messages():
        raise ImportError("cannot import name 'x' from 'sana'")


def test_notes_say_which_image_it_was(capsys):
    error = ValueError("a.png is damaged")
    error.add_note("It is images[3].")
    error.add_note("Traceback (most recent call last): of the worker that met it")
    with pytest.raises(typer.Exit), messages():
        raise error
    assert capsys.readouterr().err == "error: a.png is damaged. It is images[3].\n"


@pytest.mark.parametrize(
    ("to_resume", "said"),
    [("", "interrupted\n"), (RERUN, "interrupted: run the same command again to resume\n")],
)
def test_an_interrupt_is_one_line_that_says_how_to_resume(capsys, to_resume, said):
    with pytest.raises(typer.Exit) as stopped, messages(to_resume=to_resume):
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    assert capsys.readouterr().err == said


def test_retries_of_the_hub_client_are_not_told(caplog):
    client = logging.getLogger("huggingface_hub.utils._http")
    with messages():
        client.warning("Retrying in 1s [Retry 1/5].")
    assert caplog.records == []
    client.warning("this is told again")
    assert [record.getMessage() for record in caplog.records] == ["this is told again"]


def test_nor_are_they_where_a_command_is_the_first_to_import_the_client():
    program = (
        "import logging, sys\n"
        "from sana.commands.messages import messages\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "with messages():\n"
        "    from huggingface_hub.utils import _http\n"
        "    _http.logger.warning('Retrying in 1s [Retry 1/5].')\n"
        "_http.logger.warning('this is told again')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "this is told again\n"


def test_bars_of_transformers_are_off_without_progress_and_as_before_afterwards():
    bars.enable_progress_bar()
    with messages(progress=True):
        assert bars.is_progress_bar_enabled()
    with messages(progress=False):
        assert not bars.is_progress_bar_enabled()
    assert bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    with messages(progress=False):
        pass
    assert not bars.is_progress_bar_enabled()
    bars.enable_progress_bar()


def test_what_the_terminal_cannot_show_is_escaped(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with messages():
        print("一.png", flush=True)
    assert written.getvalue().decode().strip() == r"\u4e00.png"
