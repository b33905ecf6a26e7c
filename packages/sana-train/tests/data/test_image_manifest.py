import dataclasses
import os

import pyarrow
import pytest
from pyarrow import parquet

from sana_train.data.bad_samples import BadSampleError, Reason
from sana_train.data.image_manifest import ImageManifest
from sana_train.data.image_records import ImageRecord


def record(**changes):
    return ImageRecord(**{"key": "a", "file": "a.jpg", "offset": 0, "size": 3, "height": 4, "width": 5} | changes)


def test_a_manifest_is_read_as_it_was_written(manifest, dataset):
    manifest.write(dataset / "manifest.parquet")
    again = ImageManifest.read(dataset / "manifest.parquet")
    assert [again[row] for row in range(len(again))] == [manifest[row] for row in range(len(manifest))]
    assert again.sha256 == manifest.sha256
    assert [again.bytes_of(again[row]) for row in (0, 19)] == [manifest.bytes_of(manifest[row]) for row in (0, 19)]
    assert not list(dataset.glob("*.tmp"))


def test_a_manifest_that_pyarrow_wrote_is_taken(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"abc")
    table = pyarrow.table(
        {
            "key": ["x"],
            "file": ["a.jpg"],
            "offset": pyarrow.array([0], pyarrow.int32()),
            "size": [3],
            "height": [4],
            "width": [5],
            "captions": [["one", "two"]],
            "scores": pyarrow.array([[25.5, None]], pyarrow.list_(pyarrow.float32())),
            "sources": [["me", "you"]],
            "aesthetic": [6.5],
        }
    )
    parquet.write_table(table, tmp_path / "m.parquet")
    manifest = ImageManifest.read(tmp_path / "m.parquet")
    assert manifest[0] == record(key="x", captions=("one", "two"), scores=(25.5, None), sources=("me", "you"))
    assert manifest[0].best_score == 25.5
    assert manifest.bytes_of(manifest[0]) == b"abc"


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "b/../../a.jpg", "..\\a.jpg", "link/a.jpg"])
def test_a_manifest_that_points_outside_its_folder_is_refused(tmp_path, name):
    (tmp_path / "set").mkdir()
    os.symlink("/etc", tmp_path / "set" / "link")
    with pytest.raises(ValueError, match=r"points outside of .*set \(1 files, first "):
        ImageManifest.of([record(file=name), record(key="b")], tmp_path / "set")


@pytest.mark.parametrize("inside", [True, False])
def test_an_image_that_has_become_a_link_is_read_only_from_below_the_folder(manifest, dataset, tmp_path, inside):
    image, moved = dataset / "loose" / "16.png", (dataset if inside else tmp_path) / "moved.png"
    row = manifest.column("file").index("loose/16.png")
    image.rename(moved)
    os.symlink(moved, image)
    if inside:
        assert manifest.bytes_of(manifest[row]) == moved.read_bytes()
    else:
        with pytest.raises(BadSampleError) as caught:
            manifest.bytes_of(manifest[row])
        assert caught.value.reason == Reason.OUTSIDE


def test_an_image_that_has_grown_since_is_not_taken_for_the_old_one(manifest, dataset):
    row = manifest.column("file").index("loose/16.png")
    with (dataset / "loose" / "16.png").open("ab") as file:
        file.write(b"more")
    with pytest.raises(BadSampleError) as caught:
        manifest.bytes_of(manifest[row])
    assert caught.value.reason == Reason.CHANGED


def test_a_million_files_in_few_folders_are_opened_soon(tmp_path, monkeypatch):
    asked, realpath = set(), os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: asked.add(path) or realpath(path))
    rows = [record(key=f"{number}", file=f"{number % 3}/{number}.jpg") for number in range(300)]
    ImageManifest.of(rows, tmp_path)
    assert asked == {tmp_path, *(tmp_path / str(folder) for folder in range(3))}


def test_captions_may_take_more_than_two_gigabytes(manifest, dataset):
    manifest.write(dataset / "m.parquet")
    for table in (manifest.table, ImageManifest.read(dataset / "m.parquet").table):  # others count bytes in 32 bits
        assert table.schema.field("captions").type == pyarrow.large_list(pyarrow.large_string())
    small = manifest.table.cast(
        pyarrow.schema(
            [(name, SMALL.get(name, manifest.table.schema.field(name).type)) for name in manifest.table.column_names],
            metadata=manifest.table.schema.metadata,
        )
    )
    assert ImageManifest(small, dataset).sha256 == manifest.sha256  # as manifests of other programs are


TEXTS = pyarrow.list_(pyarrow.string())
SMALL = {"key": pyarrow.string(), "file": pyarrow.string(), "captions": TEXTS, "sources": TEXTS}


def test_a_folder_may_itself_be_a_link(manifest, dataset, tmp_path):
    manifest.write(dataset / "m.parquet")
    os.symlink(dataset, tmp_path / "elsewhere")
    again = ImageManifest.read(tmp_path / "elsewhere" / "m.parquet")
    assert again.bytes_of(again[0]) == manifest.bytes_of(manifest[0])


def test_an_archive_that_is_gone_or_changed_is_named(manifest, dataset):
    manifest.write(dataset / "m.parquet")
    tar = dataset / "shard-0.tar"
    with tar.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"shard-0\.tar has .* bytes and had .* when it was indexed: index it again"):
        ImageManifest.read(dataset / "m.parquet")
    tar.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-0\.tar is missing, which the manifest has images in"):
        ImageManifest.read(dataset / "m.parquet")


def test_keys_must_differ(tmp_path):
    with pytest.raises(ValueError, match=r"1 keys more than once \(\['a'\]\)"):
        ImageManifest.of([record(), record(file="b.jpg")], tmp_path)


def test_a_file_that_is_no_manifest_is_named(tmp_path):
    path = tmp_path / "m.parquet"
    with pytest.raises(FileNotFoundError, match=r"there is no manifest .*: write one with `sana index-dataset FOLDER`"):
        ImageManifest.read(path)
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(ValueError, match="is not a Parquet file, or is damaged"):
        ImageManifest.read(path)
    parquet.write_table(pyarrow.table({"key": ["a"]}), path)
    with pytest.raises(ValueError, match="lacks the columns file, offset, size, height, width, captions"):
        ImageManifest.read(path)
    columns = {name: [value] for name, value in dataclasses.asdict(record(captions=("x",), scores=(1.0,))).items()}
    parquet.write_table(pyarrow.table(columns | {"height": ["tall"], "sources": [["x"]]}), path)
    with pytest.raises(ValueError, match="has columns of other types"):
        ImageManifest.read(path)
    parquet.write_table(
        pyarrow.table(columns | {"height": pyarrow.array([None], pyarrow.int64()), "sources": [["x"]]}), path
    )
    with pytest.raises(ValueError, match="has rows without height"):
        ImageManifest.read(path)


def test_bytes_that_are_not_there_make_a_bad_sample(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"ab")
    manifest = ImageManifest.of([record(), record(key="b", file="b.jpg")], tmp_path)
    for row, reason in ((0, Reason.TRUNCATED), (1, Reason.MISSING)):
        with pytest.raises(BadSampleError) as caught:
            manifest.bytes_of(manifest[row])
        assert caught.value.reason == reason


def test_the_hash_tells_rows_apart(manifest):
    rows = [manifest[row] for row in range(len(manifest))]
    changed = [dataclasses.replace(rows[0], captions=("another",), scores=(None,), sources=("me",)), *rows[1:]]
    assert manifest.with_records(rows).sha256 == manifest.sha256
    assert manifest.with_records(changed).sha256 != manifest.sha256


def table_of(**changes):
    columns = {
        **{"key": ["a"], "file": ["a.jpg"], "offset": [0], "size": [3], "height": [4], "width": [5]},
        **{"captions": [["one", "two"]], "scores": [[1.0, 2.0]], "sources": [["x", "y"]]},
    }
    kinds = {"scores": pyarrow.list_(pyarrow.float64())}
    return pyarrow.table({name: pyarrow.array(value, kinds.get(name)) for name, value in (columns | changes).items()})


@pytest.mark.parametrize(
    ("changes", "scores", "sources"),
    [
        ({"scores": [None], "sources": [None]}, (None, None), ("", "")),
        ({"scores": [[]]}, (None, None), ("x", "y")),
        ({"scores": [[float("nan"), 2.0]]}, (None, 2.0), ("x", "y")),
    ],
)
def test_scores_that_are_not_there_are_none_however_that_is_said(tmp_path, changes, scores, sources):
    record = ImageManifest(table_of(**changes), tmp_path)[0]
    assert (record.captions, record.scores, record.sources) == (("one", "two"), scores, sources)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [[1.0]]}, "has 1 scores for the 2 captions of a: give one for each, or none"),
        ({"offset": [-1]}, "has offset -1; it must be at least 0"),
        ({"size": [-1]}, "has size -1; it must be at least 0"),
        ({"width": [0]}, "has width 0; it must be at least 1"),
    ],
)
def test_rows_that_make_no_sense_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        ImageManifest(table_of(**changes), tmp_path)


def test_an_image_said_to_be_huge_is_not_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"abc")
    manifest = ImageManifest(table_of(size=[2**40]), tmp_path)
    with pytest.raises(BadSampleError) as caught:
        manifest.bytes_of(manifest[0])
    assert caught.value.reason == Reason.TOO_LARGE
