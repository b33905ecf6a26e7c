"""The `sana` command."""

import typer

from sana.commands.generate import generate
from sana.commands.info import info
from sana.commands.train import train

app = typer.Typer(
    name="sana",
    help="Text to image with SANA-1.5.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(generate)
app.command()(info)
app.command()(train)
