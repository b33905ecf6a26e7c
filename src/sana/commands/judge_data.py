"""sana judge-data: what a judge learns from, out of pictures that GenEval judged."""

from pathlib import Path
from typing import Annotated

import typer

from sana.commands.file_checks import check_input
from sana.commands.messages import messages


def judge_data(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.jsonl", help="What `sana evaluate geneval` wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="File to write, in a folder that holds the images.")],
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run directory of `sana best-of`: take only its images, with its prompts."),
    ] = None,
    negatives: Annotated[bool, typer.Option(help="Add prompts that correct images narrowly miss.")] = True,
) -> None:
    """Write labelled images for `sana judge-train`."""
    with messages():
        check_input(results, "RESULTS.jsonl", "the results.jsonl that `sana evaluate geneval` wrote")
        from sana_judge.training import geneval_prompt, results_to_examples, run_to_examples

        say = geneval_prompt if negatives else None
        if run is None:
            count = results_to_examples(results, out, say=say)
        else:
            count = run_to_examples(run, results, out, say=say)
        typer.echo(f"{count:,} labelled images in {out}")
