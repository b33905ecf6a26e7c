"""The options that commands share."""

from typing import Annotated

import typer

MODEL_HELP = 'Pipeline folder, Hub id, name that `sana list` shows, or "embedded".'

AllowChangesOption = Annotated[
    bool, typer.Option("--allow-changes", help="Resume even with settings that change the result.")
]
ChangesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace a setting; may be repeated.")
]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="Such as cuda, cuda:1, mps or cpu; if left out, the first GPU or else the CPU."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MaxSkippedOption = Annotated[float, typer.Option(min=0, max=1, help="Largest tolerated fraction of bad samples.")]
ProgressOption = Annotated[bool, typer.Option(help="Show progress bars.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue from the newest checkpoint, or start if there is none.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the Hub.")]
