"""`python -m sana`, which is the `sana` command."""

from sana.commands import app

app(prog_name="python -m sana")
