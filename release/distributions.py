"""Whether built wheels and sdists hold what they must: `python -m release.distributions dist`."""

import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LARGEST_WHEEL = 100_000_000  # bytes; PyPI's limit for a file
_TESTED = {"3.11", "3.12", "3.13"}


def problems(folder: Path) -> Iterator[str]:
    """Yields what is wrong with the distributions in a folder."""
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 6 or len(sdists) != 6:
        yield f"{folder} holds {len(wheels)} wheels and {len(sdists)} sdists, not six of each"
    for wheel in wheels:
        yield from (f"{wheel.name} {problem}" for problem in _of_wheel(wheel))
    for sdist in sdists:
        yield from (f"{sdist.name} {problem}" for problem in _of_sdist(sdist))


def _of_wheel(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = message_from_bytes(archive.read(next(name for name in names if name.endswith("METADATA"))))
    distribution = wheel.name.partition("-")[0]
    package = "sana" if distribution == "sana_suite" else distribution
    source = ROOT / "src" if package == "sana" else ROOT / "packages" / package.replace("_", "-") / "src"
    files = {path.relative_to(source).as_posix() for path in (source / package).rglob("*") if path.is_file()}
    if missing := sorted(name for name in files - set(names) if "__pycache__" not in name):
        yield f"lacks {len(missing)} files of the package, such as {missing[0]}"
    if not any(name.endswith("licenses/LICENSE") for name in names):
        yield "lacks its LICENSE"
    if strangers := [name for name in names if not name.startswith((f"{package}/", f"{distribution}-"))]:
        yield f"holds {strangers[0]}, which is not of the package"
    yield from (f"requires {line}, a place" for line in metadata.get_all("Requires-Dist", []) if "@" in line)
    if metadata["Requires-Python"] != ">=3.11":
        yield f"requires Python {metadata['Requires-Python']}, not >=3.11"
    if disputed := set(_pythons(metadata.get_all("Classifier", []))) ^ _TESTED:
        yield f"says wrongly which Pythons it was tested with: {', '.join(sorted(disputed))}"
    if wheel.stat().st_size > _LARGEST_WHEEL:
        yield f"has {wheel.stat().st_size} bytes; PyPI takes {_LARGEST_WHEEL}"


def _pythons(classifiers: Iterable[str]) -> Iterator[str]:
    prefix = "Programming Language :: Python :: "
    return (line.removeprefix(prefix) for line in classifiers if line.startswith(f"{prefix}3."))


def _of_sdist(sdist: Path) -> Iterator[str]:
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    wanted = ["CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"]
    wanted += [] if sdist.name.startswith("sana_suite") else ["tests/conftest.py", "tests/test_public_api.py"]
    yield from (f"lacks {name}" for name in wanted if name not in names)


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1])))
    print("\n".join(found) or "six wheels and six sdists hold what they must")
    sys.exit(bool(found))
