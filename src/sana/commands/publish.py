"""sana publish: a model folder to the Hub, after a look at every file and the card."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sana.commands.messages import messages

Existing = Literal["refuse", "update", "replace"]


def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Pipeline or model folder.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Hub repository; made if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files, sizes and card; upload nothing.")] = False,
    existing: Annotated[
        Existing,
        typer.Option(help="A repository that holds anything else: refuse, update it (other files stay) or replace it."),
    ] = "refuse",
    tag: Annotated[str | None, typer.Option(help="Name for the new revision, such as v1.0.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Licence of the weights: makes a card where there is none.")
    ] = None,
    licence_name: Annotated[str | None, typer.Option("--license-name", help="Where it is `other`.")] = None,
    licence_link: Annotated[str | None, typer.Option("--license-link", help="Where it is `other`.")] = None,
    what: Annotated[str | None, typer.Option(help="A sentence for the card on what the model draws.")] = None,
    limits: Annotated[str | None, typer.Option(help="What it cannot do, for the card.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Hub id of the model it was made from, for the card.")] = None,
    training_data: Annotated[str | None, typer.Option(help="What it was trained on, for the card.")] = None,
    parity: Annotated[Path | None, typer.Option(help="What `sana parity --out` found, for the card.")] = None,
    results: Annotated[Path | None, typer.Option(help="Table that `sana evaluate` wrote, for the card.")] = None,
) -> None:
    """Publish a model: nothing is uploaded unless all of it is fit to be."""
    with messages():
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
                raise ValueError(f"{folder / CARD} is there already: leave --license out, or remove that card")
            from sana.publishing.model_card import render_card

            _check_told(base_model, parity, results)
            card = partial(render_card, folder, repo, licence=licence, **told)
        publication = inspect_folder(folder, card=card)
        if dry_run:
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
            raise FileNotFoundError(f"{path} is no file: give what `sana parity` or `sana evaluate` wrote with --out")


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
