import pytest
import torch

from sana_judge import VILAJudge
from sana_judge.training import MarginObjective


def margins_of(model, batch):
    with torch.no_grad():
        return model(batch["tiles"], batch["tile_counts"], batch["tokens"])


def test_margins_are_those_of_the_judge(judge, margin_model, images, asked, batch):
    margins = margins_of(margin_model, batch)
    for row, image, questions in zip(margins, images, asked, strict=True):
        expected = [score.margin for score in judge.score_prompts([q.prompt for q in questions], image)]
        # fp32 in another order of sums: a dozen roundings of numbers near 1.
        torch.testing.assert_close(row[: len(questions)], torch.tensor(expected), atol=5e-6, rtol=0)


def test_where_no_question_is_the_margin_is_zero(margin_model, batch):
    assert margins_of(margin_model, batch)[1, 1:].tolist() == [0, 0]


def test_a_picture_is_looked_at_once_however_many_questions(margin_model, batch, count_calls):
    looks = count_calls(margin_model.model.vision_tower)
    margins_of(margin_model, batch)
    assert looks == [1 + 5 + 3]


def test_autocast_leaves_margins_in_fp32(margin_model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        margins = margins_of(margin_model, batch)
    assert margins.dtype == torch.float32
    assert (margins != margins.bfloat16()).any()


def test_a_trained_model_is_saved_as_a_judge(margin_model, batch, images, tmp_path):
    optimizer = torch.optim.SGD(margin_model.parameters(), lr=0.1)
    before = margins_of(margin_model, batch)
    MarginObjective()(margin_model, batch, None).backward()
    optimizer.step()
    after = margins_of(margin_model, batch)
    margin_model.save_pretrained(tmp_path / "judge")
    saved = VILAJudge.from_pretrained(tmp_path / "judge")
    assert saved.score("a red dog", images[:1])[0].margin == pytest.approx(after[0, 0].item(), abs=5e-6)
    assert abs(after[0, 0] - before[0, 0]) > 1e-3
