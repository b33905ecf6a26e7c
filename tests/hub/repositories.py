"""What a Hub keeps: repositories of commits, each a tree of files, whose large contents lie elsewhere by their hash."""

import hashlib
import json
from dataclasses import dataclass, field

LARGE = (".safetensors", ".png", ".bin", ".pt", ".pth", ".npz", ".model")
LARGE_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file of a commit: its content, or the sha256 of it where it is large."""

    oid: str  # git's
    size: int
    content: bytes | None = None
    sha256: str | None = None
    xet: str | None = None  # hash under which the Xet store knows it

    @classmethod
    def small(cls, content: bytes) -> "File":
        """A file that is kept in the commit."""
        return cls(oid=_git_oid(content), size=len(content), content=content)

    @classmethod
    def large(cls, sha256: str, size: int, xet: str | None) -> "File":
        """A file that the commit points to."""
        return cls(oid=_git_oid(sha256.encode()), size=size, sha256=sha256, xet=xet)


@dataclass
class Repository:
    """Commits by their id, and the branches and tags that name some of them."""

    name: str  # owner/name
    private: bool
    trees: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit({}, "initial commit")

    def resolve(self, revision: str | None) -> str | None:
        """The commit of a branch, tag or id; None if there is none."""
        name = (revision or "main").removeprefix("refs/heads/").removeprefix("refs/tags/")
        return self.branches.get(name) or self.tags.get(name) or (name if name in self.trees else None)

    def commit(self, tree: dict[str, File], message: str, branch: str = "main") -> str:
        """Adds a commit to a branch and returns its id."""
        parent = self.branches.get(branch)
        contents = sorted((path, file.oid) for path, file in tree.items())
        oid = hashlib.sha1(json.dumps([contents, message, parent, len(self.trees)]).encode()).hexdigest()
        self.trees[oid] = tree
        self.branches[branch] = oid
        return oid


def is_large(path: str, size: int) -> bool:
    """Whether a file is uploaded beside its commit."""
    return path.endswith(LARGE) or size > LARGE_BYTES


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
