"""The verifier's question asked of any vision-language model, for one with a permissive licence (SANA-1.5, 3.3)."""

from collections.abc import Sequence
from os import PathLike
from typing import Self

import torch
from torch import Tensor

from sana_judge.image_reading import ImageLike
from sana_judge.judge_call import check_batch_size, finite_scores, pair_prompts, read_batches
from sana_judge.judge_facts import JudgeFacts
from sana_judge.judge_score import JudgeScore
from sana_judge.scorers.answering_vlm import CHECKPOINT, AnsweringVLM
from sana_judge.scorers.model_loading import find_model


class YesNoJudge:
    """P(yes) / (P(yes) + P(no)) for the first word of the answer to VILA-Judge's question.

    A word is each of its spellings "yes", "Yes" and "YES" that is a single token, their probabilities added. For any
    image-text-to-text model of transformers with a chat template; Qwen/Qwen3-VL-2B-Instruct has a permissive licence.
    A judge.json beside the model's config.json may hold another question and a calibration.
    """

    def __init__(
        self,
        model: AnsweringVLM,
        *,
        facts: JudgeFacts | None = None,
        batch_size: int = 8,
        progress: bool = True,
    ):
        """Takes what `from_pretrained` reads; raises ValueError where yes or no is not a single token."""
        self.model = model
        self.batch_size = check_batch_size(batch_size)
        self.progress = progress
        self._facts = facts or JudgeFacts()
        self._yes, self._no = model.spellings("yes"), model.spellings("no")

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | PathLike[str] = CHECKPOINT,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 8,
        progress: bool = True,
    ) -> Self:
        """Loads a model from the Hub or a folder; raises what `AnsweringVLM.from_pretrained` raises."""
        root = find_model(repo_or_dir, revision=revision, example=CHECKPOINT)
        model = AnsweringVLM.from_pretrained(root, revision=None, dtype=dtype, device=device)
        return cls(model, facts=JudgeFacts.read(root), batch_size=batch_size, progress=progress)

    def __call__(self, prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[float]:
        """Returns one probability per image; see `score`."""
        return [score.p_yes for score in self.score(prompt, images)]

    def score(self, prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[JudgeScore]:
        """Returns the judge's answer for each image, in their order; raises what `VILAJudge.score` raises.

        Logits are those of a word's spellings together, log(sum(exp)); an image counts as one tile.
        """
        prompts = pair_prompts(prompt, images)
        scores: list[JudgeScore] = []
        for places, batch in read_batches(images, self.batch_size, name="judging", progress=self.progress):
            wording = self._facts.question
            questions = [wording.replace("{prompt}", self.model.clean(prompts[place])) for place in places]
            answers = self._answers(self.model.ask(questions, batch))
            finite_scores([score.margin for score in answers], places)
            scores += answers
        return scores

    def _answers(self, logits: Tensor) -> list[JudgeScore]:
        """logits (B, V) -> B answers."""
        logits = logits.double()
        yes, no = logits[:, self._yes].logsumexp(dim=1), logits[:, self._no].logsumexp(dim=1)  # (B,)
        likeliest = logits.argmax(dim=1).tolist()
        return [
            JudgeScore(
                logit_yes=y,
                logit_no=n,
                log_z=z,
                says_yes=word in self._yes,
                tiles=1,
                p_yes=self._facts.calibration(y - n),
            )
            for y, n, z, word in zip(
                yes.tolist(), no.tolist(), logits.logsumexp(dim=1).tolist(), likeliest, strict=True
            )
        ]
