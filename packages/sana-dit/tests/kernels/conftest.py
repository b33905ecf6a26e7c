"""Kernels compiled for GPUs that need not be there, and the table of what they take; the same file in three packages.

Triton's wheel brings the compilers, NVIDIA's assembler and cuobjdump. A test module beside this file names its
CONFIGURATIONS, and those of them that are QUICK. `--every-kernel` compiles them all; `--note-kernel-resources` does so
too and writes the table, `kernel_resources.json`, for the version of Triton that is installed.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # interpreted kernels are not compiled
collect_ignore_glob = ["test_*.py"] if INTERPRETED or not find_spec("triton") else []

NOTED = Path(__file__).parent / "kernel_resources.json"
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int64: "i64"}
# Bytes that a program can have: 99 KiB on sm_86, sm_89 and sm_120, which run what sm_80 and sm_90 run.
SHARED = {"sm_80": 99 * 1024, "sm_90": 99 * 1024, "gfx942": 64 * 1024}
LOADS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4}  # bytes of AMD's, where they are more than 2


class Binary(NamedTuple):
    """What a kernel became."""

    registers: int  # of a thread
    shared: int  # bytes of a program
    loads: dict[str, int]  # how many of a thread's loads have so many bytes, the widest first
    stack: int  # bytes of a thread, where registers spill to
    text: str  # PTX or AMD's assembly

    @property
    def load(self) -> int:
        """Bytes of a thread's widest load."""
        return max(map(int, self.loads))


def pytest_addoption(parser: pytest.Parser) -> None:
    with suppress(ValueError):  # the tests of another package, in the same run, have added them
        parser.addoption("--every-kernel", action="store_true", help="compile kernels in all their configurations")
        parser.addoption("--note-kernel-resources", action="store_true", help="and write what they take to the table")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "configuration" in metafunc.fixturenames:
        every = any(
            metafunc.config.getoption(name, default=False) for name in ("every_kernel", "note_kernel_resources")
        )
        metafunc.parametrize("configuration", metafunc.module.CONFIGURATIONS if every else metafunc.module.QUICK)


@pytest.fixture(scope="session", autouse=True)
def _fresh_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Binary]:
    """Compiles what a launch (kernel, arguments, constants) would run on an architecture.

    Triton is told of pointers and sizes what it would see for itself: which are multiples of 16 (none, if not
    `aligned`), and which sizes are 1.
    """

    def compile_launch(launch: Any, architecture: str, *, aligned: bool = True, **options: int) -> Binary:
        import triton

        warps = {name: value for name, value in launch.constants.items() if name.startswith("num_")}
        source = _source(launch, aligned)
        binary = triton.compile(source, target=_targets()[architecture], options=warps | options)
        if architecture.startswith("gfx"):
            return _amd(binary)
        return _nvidia(binary, tmp_path / "kernel.cubin")

    return compile_launch


@pytest.fixture
def complaints() -> Callable[..., list[str]]:
    """Lists what is wrong with a kernel; `noted` are the registers, shared memory and loads it should have."""

    def list_them(binary: Binary, architecture: str, noted: list[int] | None = None) -> list[str]:
        found = [f"spills {binary.stack} bytes a thread"] if binary.stack else []
        if binary.shared > SHARED[architecture]:
            found.append(f"takes {binary.shared} shared bytes of {SHARED[architecture]}")
        if noted is not None and list(binary[:3]) != noted:
            found.append(f"takes (registers, shared bytes, loads) {list(binary[:3])}, noted were {noted}")
        return found

    return list_them


@pytest.fixture
def assert_as_noted(
    compiled: Callable[..., Binary], complaints: Callable[..., list[str]], request: pytest.FixtureRequest
) -> Callable[..., dict[str, Binary]]:
    """Compiles the launches of a configuration and compares them with the table."""

    def check(name: str, launches: Mapping[str, Any], architecture: str, *, aligned: bool = True) -> dict[str, Binary]:
        import triton

        binaries = {kernel: compiled(x, architecture, aligned=aligned) for kernel, x in launches.items()}
        taken = {kernel: list(binary[:3]) for kernel, binary in binaries.items()}
        print(name, taken)
        if request.config.getoption("note_kernel_resources", default=False):
            _note(name, taken, list(request.module.CONFIGURATIONS))
        table = json.loads(NOTED.read_text(encoding="utf-8"))
        noted = table[name] if table["triton"] == triton.__version__ else {}  # another compiler allocates otherwise
        wrong = {kernel: complaints(x, architecture, noted.get(kernel)) for kernel, x in binaries.items()}
        assert wrong == {kernel: [] for kernel in noted or binaries}
        return binaries

    return check


@pytest.fixture
def noted_names() -> list[str]:
    """The configurations in the table."""
    return [name for name in json.loads(NOTED.read_text(encoding="utf-8")) if name != "triton"]


def _note(name: str, taken: dict[str, list[int]], configurations: list[str]) -> None:
    import triton

    table = json.loads(NOTED.read_text(encoding="utf-8")) if NOTED.exists() else {}
    table |= {"triton": triton.__version__, name: taken}
    lines = [f"{json.dumps(key)}: {json.dumps(table[key])}" for key in ("triton", *configurations) if key in table]
    NOTED.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")


def _targets() -> dict[str, Any]:
    from triton.backends.compiler import GPUTarget

    return {
        "sm_80": GPUTarget("cuda", 80, 32),
        "sm_90": GPUTarget("cuda", 90, 32),
        "gfx942": GPUTarget("hip", "gfx942", 64),
    }


def _source(launch: Any, aligned: bool) -> Any:
    from triton.compiler import ASTSource

    kernel, constants = launch.kernel, launch.constants
    given = {name: value for name, value in launch.arguments.items() if value is not None}
    constants = constants | {name: 1 for name, value in given.items() if _is_one(value)}  # as Triton takes a 1
    given = {name: value for name, value in given.items() if not _is_one(value)}
    signature = {name: _kind(given[name]) if name in given else "constexpr" for name in kernel.arg_names}
    sixteens = [name for name, value in given.items() if aligned and _is_sixteenfold(value)]
    return ASTSource(
        kernel,
        signature=signature,
        constexprs={name: constants.get(name) for name, kind in signature.items() if kind == "constexpr"},
        attrs={(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in sixteens},
    )


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    return "i32" if isinstance(value, int) else "fp32"


def _is_one(value: Any) -> bool:
    return isinstance(value, int) and value == 1


def _is_sixteenfold(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)


def _nvidia(binary: Any, cubin: Path) -> Binary:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip(f"this triton has no {tool}")
    cubin.write_bytes(binary.asm["cubin"])
    report = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", report).groups())
    text = binary.asm["ptx"]
    loads = re.findall(r"ld\.global[\w:.]*?(?:\.v(\d))?\.b(\d+)", text)
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global \[.*?\], \[.*?\], (0x\w+)", text)
    widths = [int(count or 1) * int(bits) // 8 for count, bits in loads] + [int(size, 16) for size in copies]
    return Binary(registers, binary.metadata.shared, _counted(widths), stack, text)


def _amd(binary: Any) -> Binary:
    text = binary.asm["amdgcn"]
    registers, stack = (
        int(re.search(rf"\.{name}:\s+(\d+)", text).group(1)) for name in ("vgpr_count", "private_segment_fixed_size")
    )
    widths = [LOADS.get(kind, 2) for kind in re.findall(r"(?:global|buffer)_load_(\w+)", text)]
    return Binary(registers, binary.metadata.shared, _counted(widths), stack, text)


def _counted(widths: list[int]) -> dict[str, int]:
    return {str(width): widths.count(width) for width in sorted(set(widths), reverse=True)}  # as JSON keeps it
