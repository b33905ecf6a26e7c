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
BENCHMARKS = [
    "autoencoder",
    "counts",
    "denoiser",
    "guided_step",
    "image",
    "judging",
    "operations",
    "optimizer_step",
    "quantization",
    "training_step",
]
OLDEST = ["sana-ae", "sana-dit", "sana-judge", "sana-train", "sana-suite"]  # all but sana-scale need one of the two
FROM_SITE_PACKAGES = """
import importlib, sys, sysconfig
found = importlib.import_module(sys.argv[1]).__file__
assert found.startswith(sysconfig.get_path("purelib")), found
"""
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
    """Draw a prompt with the embedded model: nox -s demo -- "a red apple"."""
    session.install("-e", ".", *editable(*PACKAGES), *CONSTRAINTS)
    session.run("sana", "generate", *(session.posargs or ["two red apples left of a cat"]))


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documentation into dist/docs/; a broken link or docstring fails it."""
    session.install(*group("docs"))
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build every sdist, and every wheel from its sdist, into dist/; check what they hold and say of themselves."""
    session.install("build", "twine")
    for name in ("dist/*.whl", "dist/*.tar.gz"):
        for path in ROOT.glob(name):
            path.unlink()
    for project in (".", *(f"packages/{package}" for package in PACKAGES)):
        session.run("python", "-m", "build", "--outdir", "dist", project, silent=True)
    session.run("twine", "check", "--strict", *map(str, sorted((ROOT / "dist").glob("sana_*"))))
    session.run("python", "-m", "release.distributions", "dist")


@nox.session(name="test-wheels", requires=["build"], default=False)
@nox.parametrize("package", [*PACKAGES, "sana-suite"], ids=[*PACKAGES, "sana-suite"])
def test_wheels(session: nox.Session, package: str) -> None:
    """Test one package as its users get it: its wheel in a clean environment, the tests far from the sources."""
    ours = [*PACKAGES, package] if package == "sana-suite" else [package]
    home = ROOT if package == "sana-suite" else ROOT / "packages" / package
    # By name, as users do, but not what an index may have under it.
    session.install("--force-reinstall", "--no-index", "--no-deps", "--find-links", "dist", *ours)
    session.install("--find-links", "dist", *ours, *group("test", home), *CONSTRAINTS)
    far = Path(session.virtualenv.location) / "tree"
    shutil.rmtree(far, ignore_errors=True)
    shutil.copytree(ROOT, far, ignore=shutil.ignore_patterns("dist", ".*"))
    for source in far.glob("**/src/**/*.py"):
        source.unlink()
    session.chdir(far)
    module = package.replace("-", "_").removesuffix("_suite")
    session.run("python", "-P", "-c", FROM_SITE_PACKAGES, module)
    session.run("pytest", "tests" if home == ROOT else f"packages/{package}/tests", *session.posargs)
    if package == "sana-dit":
        session.install("--find-links", str(ROOT / "dist"), str(ROOT / "release" / "scratch_project"), *CONSTRAINTS)
        session.run("python", "-P", "-m", "scratch_project")


@nox.session(name="test-oldest", default=False)
@nox.parametrize("package", OLDEST, ids=OLDEST)
def test_oldest(session: nox.Session, package: str) -> None:
    """Test with the oldest transformers and huggingface_hub that are supported."""
    oldest = ("-c", str(ROOT / "constraints" / "oldest.txt"))
    home = ROOT if package == "sana-suite" else ROOT / "packages" / package
    ours = ["-e", ".", *editable(*PACKAGES)] if package == "sana-suite" else editable(package)
    # The diffusers that tests compare with has a newer huggingface_hub; an older one does for this.
    needed = ["diffusers" if line.startswith("diffusers") else line for line in group("test", home)]
    session.install(*ours, *needed, *oldest)
    session.run("pytest", str(home / "tests"), *session.posargs)


@nox.session(name="test-torch-2.11", default=False)
@nox.parametrize("package", [*PACKAGES, "sana-suite"], ids=[*PACKAGES, "sana-suite"])
def test_earlier_torch(session: nox.Session, package: str) -> None:
    """Test with torch 2.11 and triton 3.6; on Linux they bring CUDA, 5 GB of it."""
    home = ROOT if package == "sana-suite" else ROOT / "packages" / package
    ours = ["-e", ".", *editable(*PACKAGES)] if package == "sana-suite" else editable(package)
    session.install(*ours, *group("test", home), "-c", str(ROOT / "constraints" / "torch-2.11.txt"))
    # What the interpreter of triton 3.6 does, also in the processes that tests start.
    tolerated = {"PYTEST_ADDOPTS": "-W 'ignore:Conversion of an array with ndim:DeprecationWarning'"}
    session.run("pytest", str(home / "tests"), *session.posargs, env=tolerated)


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """Build one package and check that its tag may be released: nox -s release -- sana-dit-v0.1.0."""
    if len(session.posargs) != 1:
        session.error("give one tag: nox -s release -- sana-dit-v0.1.0")
    (tag,) = session.posargs
    session.run("python", "-m", "release.readiness", tag)
    package = tag.rpartition("-v")[0]
    project, into = "." if package == "sana-suite" else f"packages/{package}", f"dist/{tag}"
    session.install("build", "twine")
    shutil.rmtree(ROOT / into, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", into, project, silent=True)
    session.run("twine", "check", "--strict", *map(str, sorted((ROOT / into).iterdir())))
    session.log(f"{into} is ready: git tag {tag}, and twine upload {into}/*")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure against the references and write benchmarks/results/: nox -s bench -- denoiser [--device cuda]."""
    name, *options = session.posargs or ["none"]
    if name not in BENCHMARKS:
        session.error(f"nox -s bench -- {name}: the name must be one of {', '.join(BENCHMARKS)}")
    trainer = group("bench", ROOT / "packages" / "sana-train")
    session.install("-e", ".", *editable(*PACKAGES), *group("test"), *trainer, *CONSTRAINTS)
    session.run("python", "-m", f"benchmarks.{name}", *options)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Compile every kernel; kill training and best-of-N runs at random and compare with undisturbed ones."""
    packages = ("sana-ae", "sana-dit", "sana-train", "sana-scale")
    groups = [line for package in packages for line in group("test", ROOT / "packages" / package)]
    session.install(*editable(*packages), *groups, *CONSTRAINTS)
    for package in ("sana-ae", "sana-dit", "sana-train"):
        session.run("pytest", f"packages/{package}/tests/kernels", "--every-kernel", "-q")
    for script, result in (
        ("sana-train/tests/processes/soak_kills", "soak-kills"),
        ("sana-scale/tests/soak_best_of_n", "soak-best-of-n"),
    ):
        out = f"benchmarks/results/{result}.json"
        session.run("python", f"packages/{script}.py", "--out", out, *session.posargs)
