"""sana info: what a model is and what a picture costs, from its configuration alone (no weights are loaded)."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sana.commands.messages import messages
from sana.commands.options import MODEL_HELP, JsonOption, RevisionOption

if TYPE_CHECKING:
    from sana.model_facts import ModelFacts


def info(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "embedded",
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a model's parameters, shapes, memory and FLOPs per image."""
    with messages():
        from sana.model_facts import model_facts

        facts = model_facts(model, revision=revision)
        if as_json:
            totals = {"parameters": facts.parameters, "flops_per_image": facts.flops_per_image}
            print(json.dumps(asdict(facts) | totals, indent=2))
        else:
            _print_table(model, facts)


def _print_table(model: str, facts: "ModelFacts") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=model, title_justify="left")
    table.add_column("component", no_wrap=True)
    for heading in ("parameters", "GB, bf16", "GB, fp32", "GFLOP per image"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("shape")
    for name, part in facts.components.items():
        count = part.parameters
        flops = f"{part.flops_per_image / 1e9:,.1f}"
        table.add_row(name, f"{count:,}", f"{count * 2 / 1e9:.3f}", f"{count * 4 / 1e9:.3f}", flops, part.shape)
    table.add_section()
    total = facts.parameters
    flops = f"{facts.flops_per_image / 1e9:,.1f}"
    table.add_row("all", f"{total:,}", f"{total * 2 / 1e9:.3f}", f"{total * 4 / 1e9:.3f}", flops, "")
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    shift = "no flow shift" if facts.flow_shift is None else f"flow shift {facts.flow_shift}"
    console.print(
        f"{facts.width}x{facts.height} pixels, {facts.steps} steps, guidance {facts.guidance_scale}, "
        f"{shift}, compat {facts.compat}"
    )
    bins = facts.bins or []
    sizes = f"{len(bins)}, from {'x'.join(map(str, bins[0]))} to {'x'.join(map(str, bins[-1]))}" if bins else "none"
    console.print(f"size bins (height x width): {sizes}", highlight=False)
    revision = f", revision {facts.revision}" if facts.revision else ""
    console.print(f"{facts.repository}{revision}, weights in {facts.dtype or 'unknown'}", soft_wrap=True)
    console.print(f"licence of the weights: {facts.licence or 'none is stated'}")
