"""sana list: the checkpoints that have a name."""

import json

from sana.commands.options import JsonOption


def list_models(as_json: JsonOption = False) -> None:
    """List the public checkpoints that have a name, where they are and how they are sampled."""
    from sana.catalog import CHECKPOINTS

    rows = [
        {
            "name": checkpoint.name,
            "repository": checkpoint.repository,
            "revision": checkpoint.revision,
            "pixels": checkpoint.pixels,
            "bins": len(checkpoint.bins),
            "flow_shift": checkpoint.flow_shift,
            "dtype": checkpoint.dtype,
            "compat": checkpoint.compat,
            "licence": checkpoint.licence,
        }
        for checkpoint in CHECKPOINTS
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title='Checkpoints, besides "embedded"', title_justify="left")
    for heading in ("name", "repository", "pixels", "bins", "flow shift", "dtype"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        cells = (row["name"], row["repository"], row["pixels"], row["bins"], row["flow_shift"], row["dtype"])
        table.add_row(*("-" if cell is None else str(cell) for cell in cells))
    console = Console()
    console.width = max(console.width, 140)
    console.print(table)
    console.print(f"Licence of the weights: {'; '.join(sorted({str(row['licence']) for row in rows}))}")
