"""Questions about tiles to answers: one forward for many images, or one image read once for many questions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sana_judge.judge_call import not_finite
from sana_judge.judge_score import Answer
from sana_judge.vila.model import VILAModel
from sana_judge.vila.prompt import QuestionWriter


@torch.inference_mode()
def answer_pairs(
    model: VILAModel, writer: QuestionWriter, prompts: Sequence[str], tiles: Sequence[Tensor]
) -> list[Answer]:
    """Answers one prompt for each image; an image is its tiles (T, 3, S, S).

    All tiles go through the vision tower at once, all questions through the language model at once.
    """
    counts = [len(image) for image in tiles]
    features = model.encode_tiles(torch.cat(list(tiles)).to(model.device))  # (all T, P, D)
    questions = {prompt: writer.write(prompt) for prompt in dict.fromkeys(prompts)}
    sequences = [
        torch.cat(
            [
                model.embed(questions[prompt].head),
                model.embed_image(seen, writer.newline),
                model.embed(questions[prompt].tail),
            ]
        )
        for prompt, seen in zip(prompts, torch.split(features, counts), strict=True)
    ]
    _check_length(model, max(map(len, sequences)))
    return _answers(model.logits(model.read(sequences)), writer, counts)


@torch.inference_mode()
def answer_prompts(model: VILAModel, writer: QuestionWriter, prompts: Sequence[str], tiles: Tensor) -> list[Answer]:
    """Answers several prompts about one image (T, 3, S, S), which is read only once."""
    questions = [writer.write(prompt) for prompt in prompts]
    features = model.encode_tiles(tiles.to(model.device))  # (T, P, D)
    prefix = torch.cat([model.embed(questions[0].head), model.embed_image(features, writer.newline)])
    tails = [model.embed(question.tail) for question in questions]
    _check_length(model, len(prefix) + max(map(len, tails)))
    states = model.read(tails, after=model.remember(prefix))  # (prompts, D)
    return _answers(model.logits(states), writer, [len(tiles)] * len(prompts))


def _answers(logits: Tensor, writer: QuestionWriter, counts: Sequence[int]) -> list[Answer]:
    """logits (B, V) -> B answers."""
    _check_finite(logits[:, [writer.yes, writer.no]])
    yes, no = logits[:, writer.yes].tolist(), logits[:, writer.no].tolist()
    log_z = logits.double().logsumexp(dim=1).tolist()
    says_yes = (logits.argmax(dim=1) == writer.yes).tolist()
    rows = zip(yes, no, log_z, says_yes, counts, strict=True)
    return [Answer(logit_yes=y, logit_no=n, log_z=z, says_yes=s, tiles=t) for y, n, z, s, t in rows]


def _check_finite(logits: Tensor) -> None:
    if not bool(logits.isfinite().all()):
        raise not_finite("the logits of yes and no", logits.tolist())


def _check_length(model: VILAModel, length: int) -> None:
    most = model.config.language.max_position_embeddings
    if length > most:
        raise ValueError(
            f"image and prompt are {length} tokens; the judge reads at most {most}: shorten the prompt or lower "
            "max_tiles"
        )
