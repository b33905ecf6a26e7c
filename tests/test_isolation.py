"""The one dependency rule: no package imports or requires a sibling; only sana composes them."""

import ast
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir())


def imported_packages(folder: Path) -> set[str]:
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_no_sibling(package):
    siblings = {name.replace("-", "_") for name in PACKAGES if name != package} | {"sana", "recipes"}
    assert imported_packages(ROOT / "packages" / package / "src") & siblings == set()
    assert imported_packages(ROOT / "packages" / package / "tests") & siblings == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_requires_no_sibling(package):
    text = (ROOT / "packages" / package / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    extras = project.get("optional-dependencies", {}).values()
    required = [*project["dependencies"], *chain.from_iterable(extras)]
    siblings = [name for name in PACKAGES if name != package]
    assert [line for line in required if line.startswith(("sana-suite", *siblings))] == []


def test_the_ranges_of_sana_admit_the_versions_of_the_tree():
    from packaging.requirements import Requirement

    root = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {line.name: line.specifier for line in map(Requirement, root["dependencies"])}
    for package in PACKAGES:
        text = (ROOT / "packages" / package / "pyproject.toml").read_text()
        assert ranges[package].contains(tomllib.loads(text)["project"]["version"]), package


@pytest.mark.parametrize("name", ["src/*/hub_download.py", "src/*/hub_upload.py", "tests/kernels/conftest.py"])
def test_what_isolation_makes_several_packages_hold_does_not_drift(name):
    """The rule's price: the same file in three packages. A mend of one is a mend of all."""
    twins = sorted(ROOT.glob(f"packages/*/{name}"))
    if not any(ROOT.glob("packages/*/src/**/*.py")):
        pytest.skip("the sources are elsewhere: wheels are tested")
    texts = {path.read_text(encoding="utf-8").replace(path.parts[-4], "PACKAGE") for path in twins}
    assert (len(twins), len(texts)) == (3, 1)
