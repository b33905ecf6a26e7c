import json
import warnings

import pytest
from PIL import Image

from sana_judge.geneval import read_directory, read_metadata, save_prompt, write_metadata


def test_a_directory_is_read_as_it_was_written(folder, metadata):
    read = read_directory(folder)
    assert [each.number for each in read] == [0, 1, 2]
    assert [each.metadata for each in read] == metadata
    assert [path.relative_to(folder).as_posix() for path in read[1].images] == [
        "00001/samples/00000.png",
        "00001/samples/00001.png",
    ]


def test_folders_and_images_come_in_the_order_of_their_numbers(tmp_path, metadata):
    for number in (10, 9):
        save_prompt(tmp_path, number, metadata[0], [Image.new("RGB", (4, 4))] * 11)
    for index, path in enumerate(sorted((tmp_path / "00009" / "samples").iterdir())):
        path.rename(path.with_name(f"{index}.png"))  # 10.png sorts before 2.png as text
    read = read_directory(tmp_path)
    assert [each.number for each in read] == [9, 10]
    assert [path.name for path in read[0].images] == [f"{index}.png" for index in range(11)]


def test_what_is_not_of_the_layout_is_passed_over(folder):
    (folder / "notes").mkdir()
    (folder / "results.jsonl").write_text("")
    Image.new("RGB", (4, 4)).save(folder / "00000" / "grid.png")
    for name in ("0002.jpg", "first.png", "0003.png.bak"):
        (folder / "00000" / "samples" / name).write_text("")
    assert len(read_directory(folder)[0].images) == 2


def test_official_metadata_count_where_the_folder_dropped_exclude(folder, metadata):
    del metadata[2]["exclude"]
    (folder / "00002" / "metadata.jsonl").write_text(json.dumps(metadata[2]))
    official = [each.metadata for each in read_directory_quietly(folder)]
    official[2] = metadata[2] | {"exclude": [{"class": "cat", "count": 3}]}
    with pytest.warns(UserWarning, match=r"1 folders ask for something else .*\(00002\)"):
        assert read_directory(folder, official)[2].metadata == official[2]


def read_directory_quietly(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_directory(folder)


def test_a_counting_prompt_without_exclude_is_warned_about(folder, metadata):
    del metadata[2]["exclude"]
    (folder / "00002" / "metadata.jsonl").write_text(json.dumps(metadata[2]))
    with pytest.warns(UserWarning, match=r"1 counting prompts have no `exclude`.*\(00002\)"):
        read_directory(folder)


def test_official_metadata_are_found_by_prompt_where_numbers_differ(folder, metadata):
    read = read_directory(folder, metadata[::-1])
    assert [each.metadata for each in read] == metadata


def test_a_prompt_that_the_official_metadata_lack_is_an_error(folder, metadata):
    with pytest.raises(ValueError, match="folder 00002 has the prompt 'a photo of two cats'"):
        read_directory(folder, metadata[:2])


def test_prompts_without_images_are_warned_about(folder, metadata):
    save_prompt(folder, 7, metadata[0], [])
    with pytest.warns(UserWarning, match=r"1 prompts have no images .*\(00007\)"):
        assert read_directory(folder)[3].images == ()
    for number in (8, 9, 10, 11):
        save_prompt(folder, number, metadata[0], [])
    with pytest.warns(UserWarning, match=r"5 prompts .*\(00007, 00008, 00009, 00010, \.\.\.\)"):
        read_directory(folder)


def test_folders_that_cannot_be_judged_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder: give the one that holds GenEval's images"):
        read_directory(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no GenEval folders"):
        read_directory(tmp_path)
    (folder / "00001" / "metadata.jsonl").write_text('{"tag": "colors"}\n{}')
    with pytest.raises(ValueError, match=r"00001/metadata\.jsonl is not one JSON object"):
        read_directory(folder)
    (folder / "00001" / "metadata.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"00001 has no metadata\.jsonl"):
        read_directory(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"tag": None},
        {"include": [{"class": "cat"}]},
        {"include": [{"class": "cat", "count": "2"}]},
        {"include": [{"class": "cat", "count": 1, "position": ["left of", 0]}]},
        {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["beside", 0]}]},
        {"exclude": "cat"},
    ],
)
def test_metadata_that_the_rules_do_not_know_are_refused(tmp_path, metadata, change):
    path = tmp_path / "evaluation_metadata.jsonl"
    with pytest.raises(ValueError, match="metadata 1 is"):
        write_metadata(path, [metadata[0] | change])
    assert not path.exists()
    path.write_text(json.dumps(metadata[0]) + "\n" + json.dumps(metadata[0] | change) + "\n")
    with pytest.raises(ValueError, match="line 2 of"):
        read_metadata(path)


def test_metadata_are_read_as_they_were_written(tmp_path, metadata):
    write_metadata(tmp_path / "evaluation_metadata.jsonl", metadata)
    assert read_metadata(tmp_path / "evaluation_metadata.jsonl") == metadata
