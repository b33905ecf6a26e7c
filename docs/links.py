"""Links of the READMEs that pages include: to what this site holds, else only their words, if the file is there."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#|mailto:)([^)#]+)(#[^)]*)?\)")
INCLUDED = re.compile(r'--8<-- "(.+?)"')


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Puts in the file that a page includes, with its links turned to this site."""
    included = INCLUDED.fullmatch(markdown.strip())
    if included is None:
        return markdown
    source = ROOT / included[1]
    up = "../" * page.file.src_uri.count("/")

    def turned(link: re.Match[str]) -> str:
        target = (source.parent / link[2]).resolve()
        if not target.exists():
            raise FileNotFoundError(f"{source} links to {link[2]}, which is not there")
        if target.is_relative_to(ROOT / "docs"):
            return f"[{link[1]}]({up}{target.relative_to(ROOT / 'docs').as_posix()})"
        package = target.parent if target.name == "README.md" else target
        if package.parent == ROOT / "packages":
            return f"[{link[1]}]({up}guides/{package.name}.md)"
        return link[1]

    return LINK.sub(turned, source.read_text(encoding="utf-8"))
