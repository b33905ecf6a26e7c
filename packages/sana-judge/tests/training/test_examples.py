import json

import pytest

from sana_judge.training import Example, is_held_back, read_examples, split_groups


@pytest.fixture
def write(tmp_path):
    def write_lines(*lines):
        path = tmp_path / "data.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return path

    return write_lines


def line(image="a.png", **fields):
    return {"prompt": "a dog", "image": image, "label": 1} | fields


def test_a_line_is_an_example(write, picture, tmp_path):
    picture("sub/a.png")
    (example,) = read_examples(write(line("sub/a.png", task="counting", negatives=["two dogs"]), "")).usable
    assert example == Example(
        prompt="a dog",
        image=(tmp_path / "sub" / "a.png").resolve(),
        label=1.0,
        task="counting",
        group="a dog",
        negatives=("two dogs",),
    )


def test_missing_and_damaged_images_are_counted_and_listed(write, picture, tmp_path):
    picture("a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    examples = read_examples(write(line(), line("gone.png"), line("cut.png")))
    assert [example.image.name for example in examples.usable] == ["a.png"]
    assert list(examples.refused) == [2, 3]
    assert "missing" in examples.refused[2]
    assert "cut.png" in examples.refused[3]


def test_without_a_check_damaged_images_are_not_opened(write, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    assert len(read_examples(write(line()), check_images=False).usable) == 1


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "link/secret.png"])
def test_nothing_outside_the_folder_is_opened(write, picture, tmp_path, name):
    inside = tmp_path / "data"
    inside.mkdir()
    picture("secret.png")
    (inside / "link").symlink_to(tmp_path)
    (inside / "data.jsonl").write_text(json.dumps(line(name)))
    with pytest.raises(ValueError, match=r"line 1 of .*outside"):
        read_examples(inside / "data.jsonl")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "line 2 .*not JSON"),
        ("[1]", "must be an object"),
        ({"prompt": "a", "image": "a.png"}, "has no label"),
        (line(label=2), "label 2"),
        (line(label="yes"), "label 'yes'"),
        (line(lable=1), "lable; known are"),
        (line(negatives=[1]), "must be prompts"),
    ],
)
def test_a_line_that_is_no_example_is_named(write, picture, bad, message):
    picture("a.png")
    with pytest.raises(ValueError, match=message):
        read_examples(write(line(), bad))


def test_a_file_without_usable_examples_is_refused(write):
    with pytest.raises(ValueError, match=r"no usable example .*missing"):
        read_examples(write(line()))


def test_no_prompt_is_on_both_sides_of_the_split(tmp_path):
    examples = [
        Example(prompt=f"p{n % 300}", image=tmp_path / f"{n}.png", label=1, group=f"p{n % 300}") for n in range(900)
    ]
    training, validation = split_groups(examples, 0.2)
    assert len(training) + len(validation) == 900
    assert not {example.group for example in training} & {example.group for example in validation}
    # 300 groups at 0.2: the standard deviation is 6.9 groups; five of them.
    assert abs(len(validation) / 3 - 60) < 35


def test_the_split_of_a_group_does_not_depend_on_the_others():
    sides = [is_held_back(f"p{n}", 0.3) for n in range(100)]
    assert sides == [is_held_back(f"p{n}", 0.3) for n in range(100)]
    assert all(is_held_back(f"p{n}", 0.4) for n in range(100) if sides[n])
    assert sides != [is_held_back(f"p{n}", 0.3, salt="another") for n in range(100)]
    with pytest.raises(ValueError, match="share is 1"):
        is_held_back("p", 1.0)
