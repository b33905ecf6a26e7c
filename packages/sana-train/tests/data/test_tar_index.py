import io
import tarfile

import pytest

from sana_train.data.bad_samples import Reason
from sana_train.data.tar_index import tar_samples


def samples(path):
    skipped = []
    return list(tar_samples(path, skipped)), skipped


def test_members_lie_where_the_index_says(tmp_path, write_tar):
    files = {"a/1.jpg": b"image 1", "a/1.seg.png": b"mask", "a/1.txt": b"one" * 300, "a/2.jpg": b"image 2"}
    path = write_tar(tmp_path / "x.tar", files)
    found, skipped = samples(path)
    assert [(sample.key, list(sample.files)) for sample in found] == [
        ("a/1", [".jpg", ".seg.png", ".txt"]),
        ("a/2", [".jpg"]),
    ]
    content = path.read_bytes()
    for sample in found:
        for member in sample.files.values():
            assert content[member.offset : member.offset + member.size] == files[member.name]
    assert skipped == []


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_in_every_dialect(tmp_path, form):
    name = "/".join(["directory" * 9] * 2) + "/图" * (form != tarfile.USTAR_FORMAT) + "/1.jpg"
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
        member = tarfile.TarInfo(name)
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))
    ((sample,), _) = samples(tmp_path / "x.tar")
    member = sample.files[".jpg"]
    assert (tmp_path / "x.tar").read_bytes()[member.offset : member.offset + 5] == b"hello"


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg"])
def test_a_path_that_escapes_the_archive_is_skipped_and_listed(tmp_path, write_tar, name):
    path = write_tar(tmp_path / "x.tar", {name: b"x", "good.jpg": b"y"})
    found, skipped = samples(path)
    assert [sample.key for sample in found] == ["good"]
    assert [(sample.key, sample.reason) for sample in skipped] == [(f"x.tar/{name}", str(Reason.OUTSIDE))]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_what_is_no_plain_file_is_skipped(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    found, skipped = samples(tmp_path / "x.tar")
    assert found == []
    assert skipped[0].reason == Reason.OUTSIDE


def test_what_is_no_plain_tar_is_named(tmp_path, write_tar):
    (tmp_path / "x.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(ValueError, match=r"x\.tar is not a plain tar, or is cut short"):
        samples(tmp_path / "x.tar")
    with tarfile.open(tmp_path / "y.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ValueError, match=r"y\.tar is not a plain tar.*: unpack compressed ones"):
        samples(tmp_path / "y.tar")


MEMBER = 512 + 2048  # bytes of a header and of 2000 bytes in blocks


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (5000, r"x\.tar is not a plain tar, or is cut short"),
        (2 * MEMBER + 100, r"x\.tar is not a plain tar, or is cut short|x\.tar is cut short at byte 5,120"),
        (2 * MEMBER, r"x\.tar is cut short at byte 5,120, before the end mark of a tar"),
    ],
    ids=["in a member", "in a header", "between members"],
)
def test_a_tar_cut_short_is_named(tmp_path, write_tar, end, message):
    path = write_tar(tmp_path / "x.tar", {f"{number}.jpg": bytes(2000) for number in range(9)})
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match=message):
        samples(path)


def test_a_tar_that_goes_on_after_its_end_is_not_taken_for_half_of_it(tmp_path, write_tar):
    path = write_tar(tmp_path / "x.tar", {f"{number}.jpg": bytes(2000) for number in range(9)})
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(2**21))
    assert len(samples(path)[0]) == 9
    path.write_bytes(whole + whole)
    with pytest.raises(ValueError, match=r"x\.tar is damaged at byte 23,040, or several tars in one"):
        samples(path)
    damaged = bytearray(whole)
    damaged[5 * MEMBER + 150] ^= 0xFF  # of a header's checksum
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"x\.tar is damaged at byte 12,800"):
        samples(path)
