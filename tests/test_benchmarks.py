"""The benchmarks measure what they say; how long anything takes is not tested."""

import importlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

import sana_ae.ops
import sana_dit.ops
from benchmarks import counts, image, machine, readme_table
from benchmarks.floors import count_flops
from benchmarks.gate import GPU_TESTS, ROOT, check_errors, commands
from benchmarks.gpu_suite import BENCHMARKS, SECONDS, TESTS, WHERE_THERE_IS_TIME, has_failed, search_path
from benchmarks.kernels import check_kernels, fastest
from benchmarks.ledger import Ledger, WholeNorms
from benchmarks.machine import add_row, floor_seconds, write_result
from benchmarks.references import TRANSFORMERS
from benchmarks.timing import Times, interleaved
from sana import SanaPipeline
from sana.parity import Sampling
from sana.resolution import drawing_size, resolution_bins
from sana_ae import DC_AE_F32C32_SANA, tiling
from sana_ae.training import recompute_blocks

CPU, GPU = torch.device("cpu"), torch.device("cuda")


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


@pytest.mark.parametrize("faster", ["product", "linear"])
def test_the_rate_of_products_is_that_of_the_faster_library(faster, monkeypatch):
    seconds = {"product": 2.0, "linear": 2.0, "copy": 1.0} | {faster: 1.0}
    measured = {name: Times(seconds=(time,)) for name, time in seconds.items()}
    monkeypatch.setattr(machine, "interleaved", lambda contenders, **_: {name: measured[name] for name in contenders})
    assert machine.ceilings(CPU, torch.float32)["flops"] == 2 * 1536**3


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


def test_a_sprint_model_has_a_floor_too():
    sprint = replace(TRANSFORMERS["tiny"], guidance_embeds=True)
    assert count_flops(sprint, batch=1, side=2) > count_flops(TRANSFORMERS["tiny"], batch=1, side=2)


def test_a_run_that_is_cut_short_keeps_the_rows_before(tmp_path):
    result, out = {"benchmark": "x", "date": "2026-01-02", "device": "a CPU"}, tmp_path / "x.json"
    for number in range(2):
        add_row(result, {"pixels": number}, "x", out)
        assert len(json.loads(out.read_text())["results"]) == number + 1


def test_plain_pytorch_is_not_timed_in_place_of_a_kernel():
    x, expected = torch.ones(2, 3, 16), frozenset({"sana_dit::modulated_norm"})

    def run() -> None:
        with fastest(GPU):
            sana_dit.ops.modulated_norm(x, x[:, 0], x[:, 0])

    check_kernels(run, expected, CPU)
    check_kernels(run, frozenset({"aten::native_layer_norm"}), GPU)
    with pytest.raises(SystemExit, match="in place of sana_dit::modulated_norm; nothing was timed"):
        check_kernels(run, expected, GPU)


def test_pictures_in_bfloat16_that_are_wrong_are_not_timed():
    right, wrong = (SanaPipeline.from_pretrained("embedded", device=CPU, dtype=torch.bfloat16) for _ in range(2))
    assert 0.001 < image.check(right, None, pixels=64)["error_ours"] < 0.1
    with torch.no_grad():
        wrong.transformer.final.proj.weight.mul_(0.9)
    with pytest.raises(SystemExit, match="nothing was timed"):
        image.check(wrong, right, pixels=64)


def test_a_picture_is_drawn_with_the_kernels_that_are_asked_for():
    pipeline, seen = SanaPipeline.embedded(device=CPU), []
    parts = (pipeline.transformer.blocks[0].self_attn, sana_dit.ops), (pipeline.autoencoder.decoder, sana_ae.ops)
    for part, ops in parts:
        part.register_forward_hook(lambda *_, ops=ops: seen.append(ops.implementation.selected()))
    with fastest(GPU):
        image.draw(pipeline, Sampling(seeds=(0,), height=64, width=64, steps=1, guidance_scale=4.5))
    assert seen == ["fused", "fused"]


def test_the_suite_for_a_gpu_runs_benchmarks_with_options_they_have(monkeypatch):
    for name, (module, *options), _ in (TESTS, *BENCHMARKS, *WHERE_THERE_IS_TIME):
        monkeypatch.setattr(sys, "argv", [name, *options, "--device", "cuda", "--help"])
        with pytest.raises(SystemExit) as exit:
            importlib.import_module(module).main()
        assert exit.value.code == 0, name


def test_the_suite_for_a_gpu_draws_at_sizes_that_its_models_have():
    for pixels in (512, 1024):
        for model in ("1.5-1.6b", "1.5-4.8b"):
            bins = resolution_bins(image.of_any_size(TRANSFORMERS[model]).sample_size)
            assert drawing_size(pixels, pixels, bins, f=32, binning=False) == (pixels, pixels)


def test_the_suite_for_a_gpu_keeps_to_its_minutes():
    assert sum(seconds for *_, seconds in (TESTS, *BENCHMARKS)) <= SECONDS <= 9 * 60 - 15


def test_the_suite_for_a_gpu_does_not_fail_for_what_it_had_no_time_for():
    passed = {name: "passed" for name, *_ in (TESTS, *BENCHMARKS)}
    extras = {name: "left out: no time was left" for name, *_ in WHERE_THERE_IS_TIME}
    assert not has_failed(passed | extras)
    assert has_failed(passed | extras | {"operations": "stopped after 20 s"})


def test_the_suite_for_a_gpu_needs_no_installed_packages_of_this_tree(tmp_path):
    code = (
        "import importlib.metadata as m, importlib.util as u; m.version('sana-suite'), print(u.find_spec('sana_dit'))"
    )
    path = {"PYTHONPATH": search_path(tmp_path, None)}
    run = subprocess.run([sys.executable, "-S", "-c", code], env=path, capture_output=True, text=True, check=True)
    assert str(ROOT / "packages") in run.stdout


def test_a_gpu_is_given_every_size_and_type_of_the_kernels_without_diffusers():
    pytest.importorskip("triton", reason="needs triton, which a GPU's machine has")
    calls = commands(GPU)
    assert not any("gpu" in call for call in calls)
    assert {path for *_, path in calls} >= {path for path in GPU_TESTS if path.endswith(".py")}
    modules = sorted({module for _, (module, *_), _ in (TESTS, *BENCHMARKS, *WHERE_THERE_IS_TIME)})
    collect = ["--collect-only", "-q", "-W", "default", "-p", "no:cacheprovider"]
    divided = [call[call.index("-k") :] for call in calls if "-k" in call]
    code = f"""
import importlib, sys
sys.modules |= dict.fromkeys(("accelerate", "bitsandbytes", "diffusers", "peft"))
import pytest
for module in {modules}: importlib.import_module(module)
sys.exit(max(pytest.main([*{collect}, *rest]) for rest in {[list({path for *_, path in calls}), *divided]}))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    small = [line for line in run.stdout.splitlines() if "::test_is_as_exact_as_plain_pytorch[" in line]
    assert len(small) > 60
    assert sum("bfloat16" in line for line in small) > 15
    seen = Counter(line for line in run.stdout.splitlines() if "::test_" in line)
    assert len(divided) > 1
    assert all(times == 1 + ("/test_linear_attention.py::" in line) for line, times in seen.items())  # whole, in parts


def note(folder, name, row, **changes):
    result = {"benchmark": "whole picture beside diffusers", "device": "a CPU", "threads": 2, "date": "2026-01-01"}
    (folder / f"{name}.json").write_text(json.dumps(result | changes | {"results": [row]}))


def test_the_readme_has_the_newest_of_each_measurement(tmp_path):
    row = {"dtype": "float32", "pixels": 128, "seconds_ours": 0.5, "seconds_diffusers": 1.0, "over_floor": 1.5}
    note(tmp_path, "b", row | {"speedup_over_diffusers": 2.0}, date="2026-01-02")
    note(tmp_path, "c", row | {"speedup_over_diffusers": 1.0})
    note(tmp_path, "d", row | {"speedup_over_diffusers": 3.0}, batch=8)
    note(tmp_path, "e", row | {"speedup_over_diffusers": 4.0}, threads=1)
    start, end = "| whole picture, float32, pixels 128", "| 500 ms | diffusers 1 s |"
    table = readme_table.render(readme_table.newest(tmp_path))
    assert table.splitlines()[2:] == [
        f"{start} {end} 2.00 | 1.50 | a CPU, 2 threads |",
        f"{start}, batch 8 {end} 3.00 | 1.50 | a CPU, 2 threads |",
        f"{start} {end} 4.00 | 1.50 | a CPU, 1 thread |",
    ]
    marks = f"# R\n{readme_table.BEGIN}old\n{readme_table.END}rest\n"
    assert readme_table.with_table(marks, table) == f"# R\n{readme_table.BEGIN}{table}{readme_table.END}rest\n"
    with pytest.raises(ValueError, match="once each"):
        readme_table.with_table("# R\n", table)


def test_the_readme_has_times_without_a_reference_and_optimizers(tmp_path):
    note(tmp_path, "a", {"blocks": 1, "tokens": 256, "seconds_ours": 1e-3, "ns_a_token": 3906.0}, benchmark="forward")
    ours = {"optimizer": "CAME8bit row", "nanoseconds_per_parameter": 0.5, "time_over AdamW": 0.25}
    rows = [ours, {"optimizer": "AdamW", "nanoseconds_per_parameter": 2.0}]
    note(tmp_path, "b", {"tensors": "whole blocks", "optimizers": rows}, benchmark="steps")
    assert readme_table.render(readme_table.newest(tmp_path)).splitlines()[2:] == [
        "| forward, blocks 1, tokens 256 | 1 ms, 3.91e+03 ns a token | - | - | - | a CPU, 2 threads |",
        "| steps, whole blocks | CAME8bit row 0.5 ns a parameter | AdamW 2 ns | 4.00 | - | a CPU, 2 threads |",
    ]


@pytest.mark.parametrize("path", [readme_table.EVERYTHING, readme_table.HEADLINES])
def test_the_readme_claims_what_was_measured(path):
    readme = path.read_text(encoding="utf-8")
    assert readme_table.with_table(readme, readme_table.table_of(path)) == readme
    assert path.parent == ROOT or readme.count("\n| ") > 20


@pytest.fixture
def counted():
    return json.loads(counts.COUNTS.read_text(encoding="utf-8"))


def words(text):
    return " ".join(text.split())


def gib(size):
    return f"{size / 2**30:.1f}"


def test_bytes_alive_and_moved_are_those_of_a_chain_counted_by_hand():
    x = torch.empty(1024, device="meta")  # 4096 bytes
    with torch.no_grad(), Ledger() as ledger:
        a = x + 1  # x read, a written
        b = a * x  # a and x read, b written
        del a
        b.view(32, 32).t().relu_()  # b read and written
    assert (ledger.alive, ledger.peak, ledger.moved) == (4096, 2 * 4096, (2 + 3 + 2) * 4096)
    del b
    assert ledger.alive == 0


def test_what_a_gradient_needs_is_alive_and_of_a_norm_that_is_its_input_and_a_scale_a_row():
    x = torch.empty(8, 128, device="meta", requires_grad=True)
    weight = torch.empty(128, device="meta")
    with WholeNorms(), Ledger() as ledger:
        y = torch.nn.functional.rms_norm(x.exp().sin(), (128,), weight)
    assert y.requires_grad
    assert ledger.alive == 3 * x.nbytes + 8 * 4  # results of exp, which sin keeps too, and sin, the scales, and y


def test_recomputed_blocks_keep_less():
    widths = (8, 8, 16, 16, 32, 32)
    config = replace(
        DC_AE_F32C32_SANA, encoder_block_out_channels=widths, decoder_block_out_channels=widths, attention_head_dim=8
    )
    with torch.device("meta"):
        kept = counts.count_training(config, 64)
    assert kept["kept_recomputing_bytes"] == kept["kept_between_blocks_bytes"] + kept["largest_block_bytes"]
    assert kept["largest_block_bytes"] < kept["kept_recomputing_bytes"] < kept["kept_bytes"] / 2


def test_the_fused_attention_moves_q_k_v_and_its_output_and_states():
    pytest.importorskip("triton", reason="needs triton, whose kernels are counted")
    q = torch.empty(1, 512, 64, device="meta", dtype=torch.bfloat16)
    with torch.device("meta"):
        moved = counts.fused_bytes(q, q, q, None, heads=2)
    # Two parts of 256 tokens are written and read again, their sum is written and read.
    assert moved == 4 * q.nbytes + (2 * 2 + 2) * 2 * 33 * 32 * 4


def test_what_is_told_of_decoding_was_counted(counted):
    rows = {(row["pixels"], row["tile"]): (gib(row["peak_bytes"]), f"{row['work']:.2f}") for row in counted["decode"]}
    readme = (ROOT / "packages/sana-ae/README.md").read_text(encoding="utf-8")
    for pixels in (2048, 4096):
        tiles = [f"{memory} GiB, {work} times" for memory, work in (rows[pixels, tile] for tile in (1024, 512))]
        line = f"| {pixels} x {pixels} | {rows[pixels, None][0]} GiB | {tiles[0]} the work | {tiles[1]} |"
        assert line in readme
    whole, large, small = (rows[4096, tile] for tile in (None, 1024, 512))
    assert (
        f"{whole[0]} GiB whole; {large[0]} GiB with tile=1024, for {large[1]} times the work; "
        f"{small[0]} GiB with tile=512, for {small[1]} times" in words(tiling.__doc__)
    )
    told = f"{float(whole[0]):.0f} GiB for 4096x4096 pixels, and {large[0]} GiB with tile=1024"
    assert told in words(SanaPipeline.from_pretrained.__doc__)
    assert f"{100 * counted['decode_beside_diffusers']['less']:.0f} % fewer multiplications" in readme


def test_what_is_told_of_training_was_counted(counted):
    sizes = {name: gib(size) for name, size in counted["training"].items()}
    kept, recomputing = sizes["kept_bytes"], sizes["kept_recomputing_bytes"]
    readme = words((ROOT / "packages/sana-ae/README.md").read_text(encoding="utf-8"))
    assert f"activations kept per 1024 px image from {kept} to {recomputing} GiB" in readme
    told = words(recompute_blocks.__doc__)
    assert f"Of the {kept} GiB" in told
    parts = f"{sizes['kept_between_blocks_bytes']} between blocks and {sizes['largest_block_bytes']} in the largest"
    assert f"{recomputing} stay: {parts} one" in told


def test_what_is_told_of_linear_attention_was_counted(counted):
    page = words((ROOT / "docs/ideas/linear-attention.md").read_text(encoding="utf-8"))
    work = counted["block"]
    assert f"spends {work['flops_linear_attention'] / 1e9:.1f} of its {work['flops'] / 1e9:.0f} GFLOP" in page
    plain, normed = counted["linear_attention"]
    assert f"moves {plain['plain_bytes']:.0f} bytes and the fused kernels {plain['fused_bytes']:.0f};" in page
    assert f"queries and keys {normed['plain_bytes']:.0f} and {normed['fused_bytes']:.0f}." in page


def test_what_the_fused_attention_tells_of_plain_pytorch_was_counted(counted):
    fused = pytest.importorskip("sana_dit.ops.linear_attention.fused", reason="needs triton")
    plain, normed = (f"{row['plain_bytes']:.0f}" for row in counted["linear_attention"])
    assert f"plain PyTorch, in float32, moves {normed} and {plain};" in words(fused.__doc__)
