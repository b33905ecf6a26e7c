import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_first_example_draws_the_same_image_for_a_seed_and_keeps_the_best(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL).group(1)
    names = {}
    exec(example, names)
    (again,) = names["draw"]("a calm sea", [names["result"].best.seed])
    assert again.tobytes() == names["result"].best.image.tobytes()
    assert names["judge"]("a calm sea", [again]) == [names["result"].best.score]
