"""The one dependency rule: no package imports or requires a sibling; only sana composes them."""

import ast
import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
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


DISTRIBUTIONS = {"PIL": "pillow", "cleanfid": "clean-fid", "yaml": "pyyaml"}


def declared(pyproject: Path) -> dict[str, SpecifierSet]:
    """What a project may import: all that it requires, optional extras included, by the names that pip compares."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    lines = map(Requirement, [*project["dependencies"], *chain.from_iterable(extras)])
    return {line.name.lower().replace("-", "_"): line.specifier for line in lines}


@pytest.mark.parametrize("folder", [ROOT, *(ROOT / "packages" / package for package in PACKAGES)], ids=lambda f: f.name)
def test_what_is_imported_is_declared(folder):
    imported = imported_packages(folder / "src") - sys.stdlib_module_names
    own = {path.name for path in (folder / "src").glob("*")}
    needed = {DISTRIBUTIONS.get(name, name).lower().replace("-", "_") for name in imported - own}
    assert needed - declared(folder / "pyproject.toml").keys() == set()


def test_sana_asks_for_nothing_that_its_packages_would_refuse():
    ranges = declared(ROOT / "pyproject.toml")
    theirs = [declared(ROOT / "packages" / package / "pyproject.toml") for package in PACKAGES]
    for name in ranges.keys() & set().union(*theirs):
        least = {str(clause) for clause in ranges[name] if clause.operator == ">="}
        assert {str(clause) for each in theirs for clause in each.get(name, []) if clause.operator == ">="} == least, (
            name
        )


def test_the_ranges_of_sana_admit_the_versions_of_the_tree():
    ranges = declared(ROOT / "pyproject.toml")
    for package in PACKAGES:
        text = (ROOT / "packages" / package / "pyproject.toml").read_text()
        assert ranges[package.replace("-", "_")].contains(tomllib.loads(text)["project"]["version"]), package


@pytest.mark.parametrize("name", ["src/*/hub_download.py", "src/*/hub_upload.py", "tests/kernels/conftest.py"])
def test_what_isolation_makes_several_packages_hold_does_not_drift(name):
    """The rule's price: the same file in three packages. A mend of one is a mend of all."""
    twins = sorted(ROOT.glob(f"packages/*/{name}"))
    if not any(ROOT.glob("packages/*/src/**/*.py")):
        pytest.skip("the sources are elsewhere: wheels are tested")
    texts = {path.read_text(encoding="utf-8").replace(path.parts[-4], "PACKAGE") for path in twins}
    assert (len(twins), len(texts)) == (3, 1)


def test_the_modules_that_sana_uses_beside_public_names_are_listed():
    """Packages and subpackages are public: their `__all__` is under test. A module inside of them is not."""
    if not any((ROOT / "src").rglob("*.py")):
        pytest.skip("the sources are elsewhere: wheels are tested")
    modules = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module)
    libraries = [ROOT / "packages" / package / "src" for package in PACKAGES]
    used = {
        module
        for module in modules
        if any((library / f"{module.replace('.', '/')}.py").is_file() for library in libraries)
    }
    (listed,) = re.findall(r"uses these modules of the libraries.*?:\n(.*?)\.\n\n", CONTRIBUTING, flags=re.DOTALL)
    assert used == set(re.findall(r"`([\w.]+)`", listed))
