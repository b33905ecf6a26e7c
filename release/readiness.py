"""Whether a tag may be released: `python -m release.readiness sana-dit-v0.1.0` names everything that is in the way."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOMES = {path.name: path for path in sorted((ROOT / "packages").iterdir())} | {"sana-suite": ROOT}
_TAG = re.compile(r"(?P<package>[a-z-]+)-v(?P<version>\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)")
_HEADING = re.compile(r"^## (.*)$", re.M)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """What a release looks at.

    Attributes:
        version: In the package's pyproject.toml.
        changelog: Of the package.
        changed: Files that differ from the last commit, as git lists them.
        tagged: The commit that the tag names already, if there is one.
        head: The last commit.
    """

    version: str
    changelog: str
    changed: list[str]
    tagged: str | None
    head: str


def obstacles(tag: str, tree: Tree) -> Iterator[str]:
    """Yields what keeps the tag from being released."""
    match = _TAG.fullmatch(tag)
    if not match:
        yield f"{tag} is no tag of a release: it is a package and its version, such as sana-dit-v0.1.0"
        return
    if match["package"] not in HOMES:
        yield f"{tag} names no package of this tree: they are {', '.join(HOMES)}"
        return
    version = match["version"]
    if version != tree.version:
        yield f"{tag} says {version}, and pyproject.toml says {tree.version}"
    yield from _of_changelog(version, tree.changelog)
    if tree.changed:
        yield f"{len(tree.changed)} files are not committed: {', '.join(tree.changed[:3])}"
    if tree.tagged not in (None, tree.head):
        yield f"{tag} names another commit already, {tree.tagged:.10}: a release is never replaced, raise the version"


def read_tree(tag: str, root: Path = ROOT) -> Tree:
    """Looks at the tree for the package that a tag names; of the whole for a tag that names none."""
    home = root / HOMES.get(tag.rpartition("-v")[0], ROOT).relative_to(ROOT)
    project = tomllib.loads((home / "pyproject.toml").read_text())["project"]
    commits = _git(root, "rev-list", "-n", "1", tag, check=False)
    return Tree(
        version=project["version"],
        changelog=(home / "CHANGELOG.md").read_text(),
        changed=[line[3:] for line in _git(root, "status", "--porcelain").splitlines()],
        tagged=commits.strip() or None,
        head=_git(root, "rev-parse", "HEAD").strip(),
    )


def _of_changelog(version: str, changelog: str) -> Iterator[str]:
    headings = _HEADING.findall(changelog)
    first = headings[0] if headings else "nothing"
    if not re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", first):
        yield f"CHANGELOG.md begins with '{first}': it must begin with '{version} - ' and the date, such as 2026-01-31"
    elif not _entries(changelog):
        yield f"CHANGELOG.md says nothing of {version}"


def _entries(changelog: str) -> str:
    return _HEADING.split(changelog)[2].strip()


def _git(root: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=check, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


if __name__ == "__main__":
    found = [problem for tag in sys.argv[1:] or [""] for problem in obstacles(tag, read_tree(tag))]
    print("\n".join(found) or f"{' '.join(sys.argv[1:])} may be released")
    sys.exit(bool(found))
