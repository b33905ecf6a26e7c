"""Versions, changelogs and tags: that the tree agrees with itself, and that a release refuses where it does not."""

import dataclasses
import os
import subprocess
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from release.distributions import problems
from release.readiness import HOMES, Tree, obstacles, read_tree

ROOT = Path(__file__).parents[1]
READY = Tree(
    version="0.2.0",
    changelog="# Changelog\n\n## 0.2.0 - 2026-11-21\n\n- More.\n\n## 0.1.0 - 2026-01-01\n\n- First.\n",
    changed=[],
    tagged=None,
    head="abc",
)


def project(home):
    return tomllib.loads((home / "pyproject.toml").read_text())["project"]


def test_sana_asks_for_extras_that_its_packages_have():
    for line in map(Requirement, project(ROOT)["dependencies"]):
        if line.name in HOMES:
            assert line.extras <= project(HOMES[line.name])["optional-dependencies"].keys(), line


def test_a_range_of_sana_ends_before_the_next_breaking_version():
    for line in map(Requirement, project(ROOT)["dependencies"]):
        if line.name in HOMES:
            major, minor, _ = Version(project(HOMES[line.name])["version"]).release
            breaking = f"0.{minor + 1}.0" if major == 0 else f"{major + 1}.0.0"
            assert not line.specifier.contains(breaking), line


@pytest.mark.parametrize("package", sorted(HOMES))
def test_the_changelog_begins_with_the_version_of_the_tree(package):
    first = next(line for line in (HOMES[package] / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert first.startswith(f"## {project(HOMES[package])['version']} - ")


def test_all_packages_support_the_same_pythons_under_the_same_licence():
    assert len({(project(home)["requires-python"], project(home)["license"]) for home in HOMES.values()}) == 1
    assert len({(home / "LICENSE").read_bytes() for home in HOMES.values()}) == 1


def test_the_oldest_versions_that_are_tested_are_those_that_are_allowed():
    pins = {line.name: line.specifier for line in requirements(ROOT / "constraints" / "oldest.txt")}
    for home in HOMES.values():
        extras = project(home).get("optional-dependencies", {}).values()
        for line in map(Requirement, [*project(home)["dependencies"], *chain(*extras)]):
            if line.name in ("huggingface_hub", "transformers"):
                (oldest,) = (s.version for s in line.specifier if s.operator == ">=")
                (pinned,) = (s.version for s in pins[line.name])
                assert Version(pinned).release[:2] == Version(oldest).release[:2], line


def requirements(path):
    lines = path.read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_a_tag_is_released_when_all_agree():
    assert list(obstacles("sana-dit-v0.2.0", READY)) == []
    assert list(obstacles("sana-dit-v0.2.0", dataclasses.replace(READY, tagged="abc"))) == []


@pytest.mark.parametrize(
    ("tag", "changes", "message"),
    [
        ("v0.2.0", {}, "v0.2.0 is no tag of a release"),
        ("sana-dit-v0.2", {}, "sana-dit-v0.2 is no tag"),
        ("sana-v0.2.0", {}, "sana-v0.2.0 names no package of this tree"),
        ("sana-dit-v0.3.0", {}, "says 0.3.0, and pyproject.toml says 0.2.0"),
        ("sana-dit-v0.2.0", {"changelog": "## 0.2.0 - unreleased\n\n- More.\n"}, "begins with '0.2.0 - unreleased'"),
        ("sana-dit-v0.2.0", {"changelog": "## 0.1.0 - 2026-01-01\n\n- First.\n"}, "must begin with '0.2.0 - '"),
        ("sana-dit-v0.2.0", {"changelog": "# Changelog\n"}, "begins with 'nothing'"),
        (
            "sana-dit-v0.2.0",
            {"changelog": "## 0.2.0 - 2026-11-21\n\n## 0.1.0 - x\n\n- First.\n"},
            "says nothing of 0.2.0",
        ),
        ("sana-dit-v0.2.0", {"changed": ["a.py"]}, "1 files are not committed: a.py"),
        ("sana-dit-v0.2.0", {"tagged": "def"}, "names another commit already, def"),
    ],
)
def test_a_release_is_refused_when_something_disagrees(tag, changes, message):
    found = list(obstacles(tag, dataclasses.replace(READY, **changes)))
    assert any(message in problem for problem in found), found


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Runs git in a folder of its own, by nobody's settings: signing would ask for a key, a message for an editor."""
    for name, value in {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_EDITOR": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS", "GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)  # the first two are settings too; a hook of git sets the others

    def run(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    return run


def test_a_release_looks_at_git(tmp_path, git):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(READY.changelog)
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = read_tree("sana-suite-v0.2.0", tmp_path)
    assert clean == dataclasses.replace(READY, head=clean.head)
    git("tag", "sana-suite-v0.2.0")
    (tmp_path / "new.py").touch()
    git("commit", "--allow-empty", "-m", "second")
    found = list(obstacles("sana-suite-v0.2.0", read_tree("sana-suite-v0.2.0", tmp_path)))
    assert ["new.py" in found[0], "another commit" in found[1], len(found)] == [True, True, 2]


def test_a_wheel_that_lacks_files_or_requires_a_place_is_found(tmp_path):
    with zipfile.ZipFile(tmp_path / "sana_scale-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sana_scale/__init__.py", "")
        wheel.writestr("tests/test_it.py", "")
        wheel.writestr(
            "sana_scale-0.1.0.dist-info/METADATA",
            "Metadata-Version: 2.4\nRequires-Python: >=3.11\nRequires-Dist: sana-dit @ file:///tree\n"
            "Classifier: Programming Language :: Python :: 3.11\nClassifier: Programming Language :: Python :: 3.15\n",
        )
    found = "\n".join(problems(tmp_path))
    assert "1 wheels and 0 sdists, not six of each" in found
    assert "files of the package, such as sana_scale/" in found
    assert "lacks its LICENSE" in found
    assert "holds tests/test_it.py, which is not of the package" in found
    assert "requires sana-dit @ file:///tree, a place" in found
    assert "which Pythons it was tested with: 3.12, 3.13, 3.15" in found
