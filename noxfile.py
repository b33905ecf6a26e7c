"""The nox sessions. `nox -l` lists them; `nox -s test-all` is the gate for every change."""

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "typecheck", "test-all"]

ROOT = Path(__file__).parent
PACKAGES = ["sana-ae", "sana-dit", "sana-train", "sana-scale", "sana-judge"]
BENCHMARKS = {
    "op": "operations",
    "dit": "denoiser",
    "ae": "autoencoder",
    "image": "image",
    "train": "training_step",
    "optimizer": "optimizer_step",
    "judge": "judging",
}
CONSTRAINTS = ("-c", str(ROOT / "constraints" / "dev.txt"))


def group(name: str, home: Path = ROOT) -> list[str]:
    """The requirements of one dependency group, of the root or of a package."""
    return list(nox.project.dependency_groups(nox.project.load_toml(home / "pyproject.toml"), name))


def editable(*names: str) -> list[str]:
    """`pip install` arguments that install packages of this tree in place."""
    return [argument for name in names for argument in ("-e", f"packages/{name}")]


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def test(session: nox.Session, package: str) -> None:
    """Test one package with no sibling installed: nox -s "test(sana-dit)"."""
    session.install(*editable(package), *group("test", ROOT / "packages" / package), *CONSTRAINTS)
    session.run("pytest", f"packages/{package}/tests", *session.posargs)


@nox.session(name="test-e2e", default=False)
def test_e2e(session: nox.Session) -> None:
    """Test the packages together, through sana."""
    session.install("-e", ".", *editable(*PACKAGES), *group("test"), *CONSTRAINTS)
    session.run("pytest", "tests", *session.posargs)


@nox.session(name="test-all", venv_backend="none")
def test_all(session: nox.Session) -> None:
    """Every package alone in its own environment, then all together."""
    for package in PACKAGES:
        session.notify(f"test({package})", session.posargs)
    session.notify("test-e2e", session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check the types of every package and of sana."""
    session.install("-e", ".", *editable(*PACKAGES), *group("typecheck"), *CONSTRAINTS)
    session.run("mypy", "src", *(f"packages/{package}/src" for package in PACKAGES))


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """A picture from a prompt with the embedded model: nox -s demo -- "a red apple"."""
    session.install("-e", ".", *editable(*PACKAGES), *CONSTRAINTS)
    session.run("sana", "generate", *(session.posargs or ["two red apples left of a cat"]))


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documentation into dist/docs/; a broken link or docstring fails it."""
    session.install(*group("docs"))
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build every wheel and sdist into dist/ and check their metadata."""
    session.install("build", "twine")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    for project in (".", *(f"packages/{package}" for package in PACKAGES)):
        session.run("python", "-m", "build", "--outdir", "dist", project, silent=True)
    session.run("twine", "check", "--strict", *map(str, sorted((ROOT / "dist").iterdir())))


@nox.session(name="test-wheels", requires=["build"], default=False)
def test_wheels(session: nox.Session) -> None:
    """Install only the built wheels, then run every test against them."""
    wheels = [str(wheel) for wheel in sorted((ROOT / "dist").glob("*.whl"))]
    session.install(*wheels, *group("test"), *CONSTRAINTS)
    session.run("pytest", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure against the references and write benchmarks/results/: nox -s bench -- <name> [--device cuda]."""
    name, *options = session.posargs or ["none"]
    if name not in BENCHMARKS:
        session.error(f"nox -s bench -- {name}: it is one of {', '.join(BENCHMARKS)}")
    trainer = group("bench", ROOT / "packages" / "sana-train")
    session.install("-e", ".", *editable(*PACKAGES), *group("test"), *trainer, *CONSTRAINTS)
    session.run("python", "-m", f"benchmarks.{BENCHMARKS[name]}", *options)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Kill training runs at forty random moments, restart one under torchrun, and compare them with one left alone."""
    session.install(*editable("sana-train"), *group("test", ROOT / "packages" / "sana-train"), *CONSTRAINTS)
    script = "packages/sana-train/tests/processes/soak_kills.py"
    session.run("python", script, "--out", "benchmarks/results/soak-kills.json", *session.posargs)
