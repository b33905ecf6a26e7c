"""What a model card lacks to be published: a licence that the Hub knows, a text, and every field filled in."""

import re
from collections.abc import Iterator
from difflib import get_close_matches

from huggingface_hub import ModelCard
from yaml import YAMLError  # what ModelCard raises

CARD = "README.md"
LICENCE_LIST = "https://huggingface.co/docs/hub/repositories-licenses"
LICENCES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
    eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
    mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl postgresql unlicense wtfpl zlib
    """.split()  # noqa: SIM905 - a table of eight lines, not a list of eighty
)
"""The Hub's identifiers but for `unknown`, which says nothing; one that is newer goes as `other`, with its name."""
# {{ jinja }}, {{jinja}} but no {{BibTeX title}}, {% jinja %}, [More Information Needed]
_UNFILLED = re.compile(r"\{\{[-\s].*?\}\}|\{\{[\w.]+\}\}|\{%.*?%\}|\[More Information Needed\]", re.I)
_HEADER = re.compile(r"\A---\n.*?\n---\n", re.S)


def card_problems(text: str) -> Iterator[str]:
    """Yields what a card lacks."""
    try:
        data = vars(ModelCard(text, ignore_metadata_errors=False).data)
    except (ValueError, YAMLError) as error:
        yield f"the header of {CARD} is not YAML: {error}"
        return
    yield from _licence_problems(data.get("license"))
    if data.get("license") == "other" and not (data.get("license_name") and data.get("license_link")):
        yield f"{CARD} says `license: other`: add license_name and license_link"
    lines = _HEADER.sub("", text).splitlines()
    if not any(line.strip() and not line.startswith("#") for line in lines):
        yield f"{CARD} says nothing about the model: write what it is and draws, or have a card made with --license"
    if unfilled := sorted({match[0] for match in _UNFILLED.finditer(text)}):
        yield f"{CARD} has fields that nobody filled in: {', '.join(unfilled)}"


def _licence_problems(licence: object) -> Iterator[str]:
    if not licence:
        yield f"{CARD} names no licence: add `license: apache-2.0`, or the one that holds, to its header"
    elif not (isinstance(licence, str) and licence in LICENCES):
        near = get_close_matches(str(licence).lower(), LICENCES, n=1)
        yield (
            f"{CARD} names the licence {licence!r}, which is not one that the Hub knows"
            f"{f' (did you mean {near[0]}?)' if near else ''}: give one of {LICENCE_LIST}, such as apache-2.0 or mit, "
            "or `other` with license_name and license_link"
        )
