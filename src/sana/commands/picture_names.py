"""Names of pictures' files."""

import hashlib
import re
from collections.abc import Sequence


def slug(prompt: str) -> str:
    """The words of a prompt as a file name; what cannot be read off them is told apart by a hash."""
    words = re.sub(r"[\s!-/:-@\[-^`{-~]+", "-", prompt.lower()).strip("-")
    kept = re.sub(r"[^\w-]+", "", words)[:40].strip("-")
    if kept == words and kept:
        return kept
    return f"{kept or 'picture'}-{_digest(prompt)}"


def slugs(prompts: Sequence[str]) -> list[str]:
    """The slug of each of several prompts; those that would share one are told apart by a hash."""
    names = [slug(prompt) for prompt in prompts]
    shared = {name for name in names if names.count(name) > 1}
    return [f"{name}-{_digest(text)}" if name in shared else name for name, text in zip(names, prompts, strict=True)]


def _digest(prompt: str) -> str:
    return hashlib.blake2b(prompt.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
