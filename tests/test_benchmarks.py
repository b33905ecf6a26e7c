"""The benchmarks measure what they say; how long anything takes is not tested."""

import importlib.util
import json

import pytest
import torch

from benchmarks import readme_table
from benchmarks.gate import check_errors
from benchmarks.gpu_suite import BENCHMARKS
from benchmarks.machine import floor_seconds, write_result
from benchmarks.references import TRANSFORMERS, count_flops
from benchmarks.timing import Times, interleaved

CPU = torch.device("cpu")


def test_contenders_take_turns_after_two_runs_that_do_not_count():
    runs = []
    contenders = {name: lambda name=name: runs.append(name) for name in "ab"}
    times = interleaved(contenders, repeats=3, device=CPU)
    assert runs == [*"aabb", *"ababab"]
    assert [len(times[name].seconds) for name in "ab"] == [3, 3]


def test_a_ratio_is_the_median_over_pairs_of_runs():
    slow, fast = Times(seconds=(2.0, 30.0, 4.0)), Times(seconds=(1.0, 1.0, 1.0))
    assert slow.over(fast) == 4.0
    assert slow.median == 4.0


def test_the_floor_is_what_takes_longer():
    rates = {"flops": 100.0, "bytes": 10.0}
    assert floor_seconds(200, 10, rates) == 2.0
    assert floor_seconds(200, 50, rates) == 5.0


def test_a_result_is_named_by_date_device_and_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.machine.RESULTS", tmp_path)
    path = write_result({"date": "2026-01-02", "device": "AMD EPYC (7)", "x": 1}, "op", None)
    assert path.name == "2026-01-02-amd-epyc-7-op.json"
    assert json.loads(path.read_text())["x"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_timed_that_is_less_exact_than_the_reference():
    check_errors(0.009, 0.0089, torch.bfloat16)
    check_errors(9e-6, 0.0, torch.float32)
    for error, theirs, dtype in (
        (0.02, 0.01, torch.bfloat16),
        (2e-5, 1.0, torch.float32),
        (float("nan"), 1.0, torch.half),
    ):
        with pytest.raises(SystemExit, match="nothing was timed"):
            check_errors(error, theirs, dtype)


def test_operations_of_a_forward_are_counted_without_weights():
    # 2.967 TFLOP by hand for a sample of Sana 1.6B at 1024 px with 300 tokens of text; norms of q and k have none.
    assert count_flops(TRANSFORMERS["1.6b"], batch=2, side=32) == pytest.approx(2 * 2.967e12, rel=1e-3)


def test_the_suite_for_a_gpu_runs_modules_that_there_are():
    for _, (module, *_), _ in BENCHMARKS:
        assert importlib.util.find_spec(module), module
    assert sum(seconds for *_, seconds in BENCHMARKS[:5]) < 9 * 60 - 100


def test_the_readme_has_the_table_of_the_newest_results(tmp_path):
    result = {"benchmark": "whole picture beside diffusers", "device": "a CPU", "threads": 2, "date": "2026-01-01"}
    row = {"dtype": "float32", "pixels": 128, "seconds_ours": 0.5, "seconds_diffusers": 1.0}
    for number, ratio in enumerate((1.0, 2.0)):
        rows = [row | {"speedup_over_diffusers": ratio}]
        (tmp_path / f"{number}.json").write_text(
            json.dumps(result | {"date": f"2026-01-0{number + 1}", "results": rows})
        )
    table = readme_table.render(readme_table.newest(tmp_path))
    assert table.splitlines()[2:] == [
        "| whole picture, float32, pixels 128 | 500 ms | diffusers 1 s | 2.00 | a CPU, 2 threads |"
    ]
    marks = f"# R\n{readme_table.BEGIN}old\n{readme_table.END}rest\n"
    assert readme_table.with_table(marks, table) == f"# R\n{readme_table.BEGIN}{table}{readme_table.END}rest\n"
    with pytest.raises(ValueError, match="once each"):
        readme_table.with_table("# R\n", table)


def test_the_readme_claims_what_was_measured():
    readme = readme_table.README.read_text(encoding="utf-8")
    assert readme_table.with_table(readme, readme_table.render(readme_table.newest(readme_table.RESULTS))) == readme
