import io
import json
import os
import tarfile

import pytest

from sana_train.data.bad_samples import Reason, write_skipped
from sana_train.data.image_manifest import ImageManifest
from sana_train.data.indexing import index_folder, source_facts


def index(folder):
    manifest, skipped = index_folder(folder, progress=False)
    return {record.key: record for record in map(manifest.__getitem__, range(len(manifest)))}, manifest, skipped


def test_tars_and_files_are_indexed_in_place(dataset, image_bytes):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    records, manifest, skipped = index(dataset)
    assert len(records) == 20
    assert skipped == []
    wide = records["shard-0.tar/0012"]
    assert (wide.file, wide.height, wide.width) == ("shard-0.tar", 48, 96)
    assert wide.captions == ("picture 12", "a picture of number 12")
    assert (wide.scores, wide.sources) == ((None, None), ("original", "original"))
    assert manifest.bytes_of(wide) == image_bytes(12, width=96)
    assert records["loose/17.png"].captions == ("a loose picture 17",)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


@pytest.mark.parametrize(
    ("files", "captions"),
    [
        ({".txt": "\ufeffwith a mark ".encode()}, ("with a mark",)),
        ({".json": b'{"prompt": "of NVlabs"}'}, ("of NVlabs",)),
        ({".json": '{"caption": ["一", " ", 3, "two"]}'.encode()}, ("一", "two")),
        ({".json": b"[1]"}, ()),
        ({".json": b"{"}, ()),
        ({".json": b"[" * 200_000}, ()),
        ({".json": b'{"caption": "half a smile \\ud83d"}'}, ("half a smile ?",)),
        ({".txt": b"\xff\xfe\xff"}, ()),
        ({".txt": b"  \n"}, ()),
        ({}, ()),
    ],
)
def test_captions_are_found_beside_the_image(tmp_path, write_tar, image_bytes, files, captions):
    texts = {f"a{suffix}": content for suffix, content in files.items()}
    write_tar(tmp_path / "x.tar", {"a.jpg": image_bytes()} | texts)
    assert index(tmp_path)[0]["x.tar/a"].captions == captions


def test_bad_samples_are_skipped_and_listed(tmp_path, write_tar, image_bytes):
    write_tar(
        tmp_path / "x.tar",
        {"good.jpg": image_bytes(), "../out.jpg": image_bytes(), "text.jpg": b"hello", "cut.jpg": image_bytes()[:20]},
    )
    write_tar(tmp_path / "y.tar", {"a.jpg": image_bytes(), "b.jpg": image_bytes(), "a.png": image_bytes(kind="PNG")})
    records, _, skipped = index(tmp_path)
    assert sorted(records) == ["x.tar/good", "y.tar/a", "y.tar/b"]
    assert {sample.key: sample.reason for sample in skipped} == {
        "x.tar/../out.jpg": Reason.OUTSIDE,
        "x.tar/text": Reason.NOT_AN_IMAGE,
        "x.tar/cut": Reason.NOT_AN_IMAGE,
        "y.tar/a": Reason.DUPLICATE,
    }


def test_links_out_of_the_folder_are_not_followed(tmp_path, image_bytes):
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.jpg").write_bytes(image_bytes())
    (tmp_path / "secret.txt").write_text("a secret")
    (tmp_path / "set" / "a.jpg").write_bytes(image_bytes())
    os.symlink(tmp_path / "secret.txt", tmp_path / "set" / "a.txt")
    os.symlink(tmp_path / "secret.jpg", tmp_path / "set" / "b.jpg")
    records, _, skipped = index(tmp_path / "set")
    assert records["a.jpg"].captions == ()
    assert [(sample.key, sample.reason) for sample in skipped] == [("b.jpg", Reason.OUTSIDE)]


def test_names_and_links_that_cannot_be_used_are_skipped(tmp_path, image_bytes):
    for name in ("good.jpg", "a\\b.jpg", os.fsdecode(b"caf\xe9.jpg")):
        (tmp_path / name).write_bytes(image_bytes())
    os.symlink("gone.jpg", tmp_path / "nowhere.jpg")
    os.symlink("circle.jpg", tmp_path / "circle.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "folder.tar" / "inside.jpg").write_bytes(image_bytes())
    records, _, skipped = index(tmp_path)
    assert sorted(records) == ["folder.tar/inside.jpg", "good.jpg"]
    assert {sample.key: sample.reason for sample in skipped} == {
        "a\\b.jpg": Reason.NAME,
        os.fsdecode(b"caf\xe9.jpg"): Reason.NAME,
        "nowhere.jpg": Reason.MISSING,
        "circle.jpg": Reason.MISSING,
        "pipe.png": Reason.MISSING,
    }
    write_skipped(tmp_path / "skipped.jsonl", skipped)
    listed = [json.loads(line)["key"] for line in (tmp_path / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert listed == [sample.key for sample in skipped]


def test_a_name_in_a_tar_need_not_be_utf_8(tmp_path, image_bytes):
    with tarfile.open(tmp_path / "x.tar", "w", errors="surrogateescape", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo(os.fsdecode(b"caf\xe9.jpg"))
        member.size = len(image_bytes())
        archive.addfile(member, io.BytesIO(image_bytes()))
    _, manifest, skipped = index(tmp_path)
    assert skipped == []
    assert (manifest[0].key, manifest.bytes_of(manifest[0])) == ("x.tar/caf?", image_bytes())


@pytest.mark.parametrize("change", ["new image", "other picture", "other caption", "one less"])
def test_facts_of_a_folder_tell_it_from_what_it_becomes(dataset, image_bytes, change):
    facts = source_facts(dataset)
    (dataset / "notes.md").write_text("nothing that is indexed")
    assert source_facts(dataset) == facts == ImageManifest.source_of(written(dataset))
    if change == "new image":
        (dataset / "new.jpg").write_bytes(image_bytes())
    elif change == "one less":
        (dataset / "loose" / "16.png").unlink()
    else:
        path = dataset / "loose" / ("16.txt" if change == "other caption" else "16.png")
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(0, 1))
    assert source_facts(dataset) != facts


def written(folder):
    path = folder / "manifest.parquet"
    index_folder(folder, progress=False)[0].write(path)
    return path


def test_a_long_header_is_read_to_its_end(tmp_path, make_picture):
    make_picture(0, 64, 40).save(tmp_path / "a.jpg", comment=b"x" * 60_000, icc_profile=bytes(300_000))
    assert (tmp_path / "a.jpg").stat().st_size > 300_000
    record = index(tmp_path)[0]["a.jpg"]
    assert (record.height, record.width) == (40, 64)


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        index(tmp_path / "nowhere")
    (tmp_path / "a.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"holds no image that can be used \(0 were skipped\)"):
        index(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"holds no image that can be used \(1 were skipped, 1 not an image\)"):
        index(tmp_path)
