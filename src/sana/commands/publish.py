"""sana publish: a model folder to the Hub, after a look at every file and the card."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sana.choices import Existing
from sana.commands.messages import messages
from sana.commands.options import ProgressOption


def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Pipeline or model folder.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Hub repository; created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files, sizes and card; upload nothing.")] = False,
    existing: Annotated[
        Existing,
        typer.Option(help="If the repository holds other files: refuse, update (keep them) or replace them."),
    ] = "refuse",
    tag: Annotated[str | None, typer.Option(help="Name for the new revision, such as v1.0.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Licence of the weights; writes a card if there is none.")
    ] = None,
    licence_name: Annotated[
        str | None, typer.Option("--license-name", help="Name of the licence, with --license other.")
    ] = None,
    licence_link: Annotated[
        str | None, typer.Option("--license-link", help="Link to the licence, with --license other.")
    ] = None,
    what: Annotated[str | None, typer.Option(help="What the model draws, in a sentence for the card.")] = None,
    limits: Annotated[str | None, typer.Option(help="What the model cannot do, for the card.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Hub id of the model it was made from, for the card.")] = None,
    training_data: Annotated[str | None, typer.Option(help="What it was trained on, for the card.")] = None,
    parity: Annotated[Path | None, typer.Option(help="File that `sana parity --out` wrote, for the card.")] = None,
    results: Annotated[Path | None, typer.Option(help="Table that `sana evaluate` wrote, for the card.")] = None,
    progress: ProgressOption = True,
) -> None:
    """Publish a model on the Hub; nothing is uploaded unless every check of it passes."""
    with messages(progress=progress):
        from sana.publishing.card_problems import CARD
        from sana.publishing.publication import inspect_folder
        from sana.publishing.upload import check_hub_id, publish

        check_hub_id(repo)
        card: Callable[[], str] | None = None
        told: dict[str, Any] = {
            "licence_name": licence_name,
            "licence_link": licence_link,
            "what": what,
            "limits": limits,
            "base_model": base_model,
            "training_data": training_data,
            "parity": parity,
            "results": results,
        }
        if licence is None:
            _check_untold(told)
        else:
            if (folder / CARD).exists():
                raise ValueError(f"{folder / CARD} already exists: leave --license out, or remove that card")
            from sana.publishing.model_card import render_card

            _check_told(base_model, parity, results)
            card = partial(render_card, folder, repo, licence=licence, **told)
        publication = inspect_folder(folder, card=card)
        print(f"{CARD}:\n\n{publication.card}\n")
        for path, size in sorted(publication.sizes.items()):
            print(f"{size:>15,}  {path}")
        print(f"{publication.total:>15,}  bytes in {len(publication.sizes)} files for {repo}")
        if not dry_run:
            print(publish(publication, repo, private=private, existing=existing, tag=tag))


def _check_told(base_model: str | None, *files: Path | None) -> None:
    """Raise where no card can be made of what is said: all weights are read before one is."""
    from sana.publishing.upload import check_hub_id

    if base_model is not None:
        check_hub_id(base_model, name="base_model")
    for path in filter(None, files):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not a file: give what `sana parity` or `sana evaluate` wrote with --out"
            )


def _check_untold(told: Mapping[str, object]) -> None:
    """Raise ValueError where something is said for a card that nobody makes."""
    if given := [
        f"--{name.replace('licence', 'license').replace('_', '-')}" for name in told if told[name] is not None
    ]:
        verb = "is" if len(given) == 1 else "are"
        raise ValueError(
            f"{', '.join(given)} {verb} for the card that --license makes: add --license, or write into the card that "
            "is there"
        )
