import json
import logging
import os
import pickle
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from sana_train.checkpointing import manifest
from sana_train.checkpointing.checkpoint import CheckpointError, Checkpoints


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.nn.Parameter(torch.randn(5, 3, generator=generator)),
        "channels last": torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
        "half": torch.randn(7, generator=generator).bfloat16(),
        "codes": torch.arange(256, dtype=torch.uint8),
        "step": torch.tensor(3.0),
        "empty": torch.empty(0, 4),
        "not a number": torch.tensor([float("nan"), -0.0, float("inf")]),
    }


@pytest.fixture
def saved(tmp_path, state):
    """Checkpoints of steps 1 and 2 that differ in one tensor."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (1, 2):
        checkpoints.save(step, state | {"step": torch.tensor(float(step))}, {"at": step})
    return checkpoints


def bits(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8).tolist()


def blank(state):
    return {name: torch.full_like(tensor, 77) for name, tensor in state.items()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def newest_path(checkpoints):
    return sorted(checkpoints.folder.iterdir())[-1]


@pytest.mark.parametrize("background", [False, True])
def test_every_tensor_comes_back_bit_for_bit(tmp_path, state, background):
    checkpoints = Checkpoints(tmp_path, keep=1, background=background)
    before = {name: bits(tensor) for name, tensor in state.items()}
    facts = {"loss": 0.1, "steps": [1, 2], "none": None}
    checkpoints.save(3, state, facts)
    if background:
        with torch.no_grad():
            state["weight"].zero_()  # training goes on meanwhile
    found, target = checkpoints.newest(), blank(state)
    checkpoints.load(found, target)
    assert (found.step, found.path, found.facts) == (3, tmp_path / "step-00000003", facts)
    assert {name: bits(tensor) for name, tensor in target.items()} == before


def test_torch_itself_can_read_the_tensors(saved, state):
    target = blank(state)
    with pytest.warns(UserWarning, match="torch.distributed is"):
        dcp.load(target, checkpoint_id=saved.newest().path)
    assert bits(target["codes"]) == bits(state["codes"])


def test_only_the_newest_are_kept(saved, state):
    saved.save(10, state, {})
    assert names(saved.folder) == ["step-00000002", "step-00000010"]


def test_leftovers_of_a_kill_are_removed_and_nothing_else(saved, state):
    for leftover in ("step-00000003.tmp", "step-00000001.old"):
        (saved.folder / leftover).mkdir()
    (saved.folder / "notes.tmp").mkdir()
    saved.save(4, state, {})
    assert names(saved.folder) == ["notes.tmp", "step-00000002", "step-00000004"]


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoints(tmp_path / "nothing", keep=1).newest() is None


def flip_a_bit(path):
    content = bytearray((path / "__0_0.distcp").read_bytes())
    content[content.index(bytes(range(100))) + 50] ^= 1  # within the tensor `codes`
    (path / "__0_0.distcp").write_bytes(content)


def truncate(path):
    os.truncate(path / "__0_0.distcp", 1000)


DAMAGES = {
    "sha256": flip_a_bit,
    "has 1000 bytes instead of": truncate,
    "__0_0.distcp is missing": lambda path: (path / "__0_0.distcp").unlink(),
    "has no COMMIT": lambda path: (path / "COMMIT").unlink(),
    "has no manifest.json": lambda path: (path / "manifest.json").unlink(),
    "manifest.json is not what COMMIT says": lambda path: (path / "manifest.json").write_text('{"files": {}}'),
    "facts.json": lambda path: (path / "facts.json").write_text('{\n "at": 3\n}'),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_aloud(saved, caplog, said):
    DAMAGES[said](newest_path(saved))
    with caplog.at_level(logging.WARNING):
        assert saved.newest().facts == {"at": 1}
    assert "step-00000002 is skipped" in caplog.text
    assert said in caplog.text


def test_when_all_are_damaged_it_is_an_error_with_every_reason(saved):
    for path, damage in zip(sorted(saved.folder.iterdir()), (truncate, flip_a_bit), strict=True):
        damage(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*00000002: .*sha256.*00000001: .* bytes.*new run"):
        saved.newest()


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(saved, state):
    truncate(newest_path(saved))
    saved.save(2, state, {"at": "again"})
    assert names(saved.folder) == ["step-00000001", "step-00000002"]
    assert saved.newest().facts == {"at": "again"}


def test_later_checkpoints_of_a_run_that_went_back_are_removed(saved, state):
    truncate(newest_path(saved))
    saved.keep = 1
    saved.save(1, state, {"at": "again"})
    assert names(saved.folder) == ["step-00000001"]


def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(saved):
    newest = newest_path(saved)
    newest.rename(newest.with_name("step-00000002.old"))  # as a kill between the two renames leaves it
    assert saved.newest().facts == {"at": 2}


def test_another_depth_is_said_before_anything_is_touched(tmp_path):
    def blocks(count, value):
        return {f"model.blocks.{i}.weight": torch.full((2,), value) for i in range(count)}

    checkpoints, target = Checkpoints(tmp_path, keep=1), blocks(8, 5.0)
    checkpoints.save(1, blocks(12, 1.0), {})
    with pytest.raises(CheckpointError, match=r"the checkpoint has 12 blocks \(blocks.11...\), the model 8"):
        checkpoints.load(checkpoints.newest(), target)
    assert all(torch.equal(tensor, torch.full((2,), 5.0)) for tensor in target.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": torch.zeros(5, 4)}, r"weight \(5, 3\) float32 -> \(5, 4\) float32"),
        ({"weight": torch.zeros(5, 3).bfloat16()}, r"weight \(5, 3\) float32 -> \(5, 3\) bfloat16"),
        ({f"new.{i}": torch.zeros(1) for i in range(6)}, "the checkpoint lacks new.0, new.1, new.2, new.3 and 2 more"),
        ({"weight": None}, "only the checkpoint has weight"),
    ],
)
def test_names_and_shapes_that_differ_are_named_before_anything_is_touched(saved, state, change, said):
    target = {name: tensor for name, tensor in (blank(state) | change).items() if tensor is not None}
    before = {name: bits(tensor) for name, tensor in target.items()}
    with pytest.raises(CheckpointError, match=said):
        saved.load(saved.newest(), target)
    assert {name: bits(tensor) for name, tensor in target.items()} == before


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def change_index(path, change):
    """Change a checkpoint's index as somebody would who can hash, too."""
    index = pickle.loads((path / ".metadata").read_bytes())
    (path / ".metadata").write_bytes(pickle.dumps(change(index) or index))
    files = json.loads((path / "manifest.json").read_text())["files"]
    manifest.commit(path, manifest.entries(path / name for name in files))


def test_code_in_an_index_is_not_executed(saved, state, tmp_path, caplog):
    found = saved.newest()
    change_index(found.path, lambda index: Evil(tmp_path / "executed"))
    with pytest.raises(CheckpointError, match=r"names (posix|nt)\.mkdir"):
        saved.load(found, blank(state))
    assert saved.newest().facts == {"at": 1}
    assert "mkdir, which is not part of an index" in caplog.text
    assert not (tmp_path / "executed").exists()


def test_what_an_index_calls_an_object_is_not_unpickled(saved, caplog):
    entry = {"step": dcp.metadata.BytesStorageMetadata()}
    change_index(newest_path(saved), lambda index: index.state_dict_metadata.update(entry))
    assert saved.newest().facts == {"at": 1}
    assert "step is not a tensor" in caplog.text


def test_an_index_cannot_name_a_file_elsewhere(saved, caplog):
    def elsewhere(index):
        for place in index.storage_data.values():
            place.relative_path = "../step-00000001/__0_0.distcp"

    change_index(newest_path(saved), elsewhere)
    assert saved.newest().facts == {"at": 1}
    assert "which is not a file of tensors" in caplog.text


def test_code_among_the_tensors_is_not_executed(saved, state, tmp_path):
    shard = newest_path(saved) / "__0_0.distcp"
    torch.save({"weight": Evil(tmp_path / "executed")}, shard)

    def all_there(index):
        for place in index.storage_data.values():
            place.offset, place.length = 0, shard.stat().st_size

    change_index(shard.parent, all_there)
    with pytest.raises(CheckpointError, match=r"cannot be read[^$]*mkdir"):
        saved.load(saved.newest(), blank(state))
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def full_disk():
    """No file can grow beyond 50 kB while `full_disk()` lasts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


def test_a_full_disk_leaves_the_last_good_checkpoint(saved, state, full_disk):
    big = state | {"big": torch.zeros(100_000)}
    with full_disk(), pytest.raises(CheckpointError, match=r"00000003 was not saved \(OSError.*make room"):
        saved.save(3, big, {})
    assert names(saved.folder) == ["step-00000001", "step-00000002"]
    assert saved.newest().facts == {"at": 2}
    saved.save(3, big, {})  # once there is room again
    assert saved.newest().step == 3


@pytest.mark.parametrize("surfaces", ["wait", "newest", "save"])
def test_what_fails_in_the_background_surfaces_once(tmp_path, state, full_disk, surfaces):
    checkpoints = Checkpoints(tmp_path, keep=2, background=True)
    checkpoints.save(1, state, {})
    checkpoints.wait()
    ask = {"wait": checkpoints.wait, "newest": checkpoints.newest, "save": lambda: checkpoints.save(3, state, {})}
    with full_disk():
        checkpoints.save(2, {"big": torch.zeros(100_000)}, {})
        with pytest.raises(CheckpointError, match="00000002 was not saved"):
            ask[surfaces]()
    checkpoints.save(4, state, {})
    assert checkpoints.newest().step == 4


def test_facts_that_are_not_json_write_nothing(tmp_path, state):
    with pytest.raises(TypeError):
        Checkpoints(tmp_path / "checkpoints", keep=1).save(1, state, {"path": Path()})
    assert not (tmp_path / "checkpoints").exists()


def test_keeping_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory):
    """What forked processes saw, started from one script since a process group cannot be left behind in pytest's."""
    script = Path(__file__).parent / "processes" / "checkpoint_scenarios.py"
    command = [sys.executable, str(script), str(tmp_path_factory.mktemp("scenarios"))]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.parametrize(
    ("kind", "count"), [("foreground", 1), ("foreground", 2), ("foreground", 3), ("background", 3)]
)
def test_shards_of_two_processes_are_read_by_any_number(scenarios, kind, count):
    results = scenarios["reshard"][f"{kind}, {count}"]
    assert len(results) == count
    for result in results:
        assert len(result) == 14
        assert [name for name, equal in result.items() if not equal] == []


@pytest.mark.parametrize("full", [0, 1])
def test_a_full_disk_in_one_process_stops_both(scenarios, full):
    results = scenarios["full_disk"][f"process {full}"]
    for result in results:
        assert f"00000002 was not saved (process {full}: OSError" in result["error"]
        assert result["left"] == ["step-00000001"]
        assert result["next"] == 3


def test_all_processes_refuse_another_depth(scenarios):
    assert len(scenarios["other_depth"]) == 2
    for error in scenarios["other_depth"]:
        assert "the checkpoint has 12 blocks (blocks.11...), the model 8" in error


def test_all_processes_learn_who_holds_the_run(scenarios):
    holder, answers = scenarios["locked_run"]
    assert len(answers) == 2
    for held, free in answers:
        assert f"is in use by process {holder} on" in held
        assert free == "entered"
