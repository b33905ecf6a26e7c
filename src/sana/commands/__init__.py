"""The `sana` command."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from sana.commands.best_of import best_of
from sana.commands.caption_dataset import caption_dataset
from sana.commands.encode_dataset import encode_dataset
from sana.commands.evaluate import evaluate
from sana.commands.generate import generate
from sana.commands.grow import grow
from sana.commands.index_dataset import index_dataset
from sana.commands.info import info
from sana.commands.judge import judge
from sana.commands.judge_data import judge_data
from sana.commands.judge_train import judge_train
from sana.commands.list_models import list_models
from sana.commands.parity import parity
from sana.commands.prune import prune
from sana.commands.publish import publish
from sana.commands.rewrite_captions import rewrite_captions
from sana.commands.score_captions import score_captions
from sana.commands.train import train
from sana.commands.train_autoencoder import train_autoencoder

DISTRIBUTIONS = ("sana-suite", "sana-ae", "sana-dit", "sana-train", "sana-scale", "sana-judge", "torch")


def _print_versions(wanted: bool) -> None:
    """What a bug report needs."""
    if wanted:
        for name in DISTRIBUTIONS:
            try:
                typer.echo(f"{name} {version(name)}")
            except PackageNotFoundError:
                typer.echo(f"{name} not installed")
        raise typer.Exit


app = typer.Typer(
    name="sana",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _sana(
    versions: Annotated[
        bool, typer.Option("--version", callback=_print_versions, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    """Text to image with SANA-1.5."""


app.add_typer(evaluate, name="evaluate")
app.command()(best_of)
app.command()(generate)
app.command()(grow)
app.command()(info)
app.command()(judge)
app.command()(judge_data)
app.command()(judge_train)
app.command("list")(list_models)
app.command()(parity)
app.command()(prune)
app.command()(publish)
app.command()(train)
app.command()(train_autoencoder)
app.command()(index_dataset)
app.command()(caption_dataset)
app.command()(score_captions)
app.command()(rewrite_captions)
app.command()(encode_dataset)
