"""VQAScore: how likely a vision-language model says Yes to whether an image shows a text (Lin et al. 2024)."""

from collections.abc import Sequence
from os import PathLike
from typing import Self

import torch

from sana_judge.image_reading import ImageLike
from sana_judge.judge_call import check_batch_size, finite_scores, pair_prompts, read_batches
from sana_judge.scorers.answering_vlm import CHECKPOINT, AnsweringVLM

QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'


class VQAScore:
    """P("Yes") among all words, as the first of the answer to 'Does this figure show "..."? Please answer yes or no.'

    For any image-text-to-text model of transformers with a chat template. The paper's numbers are those of
    CLIP-FlanT5-XXL, which transformers does not have: numbers of other models order images and do not compare with
    them. Qwen/Qwen3-VL-2B-Instruct is a small model with a permissive licence.
    """

    def __init__(self, model: AnsweringVLM, *, batch_size: int = 8, progress: bool = True):
        """Takes what `from_pretrained` reads; raises ValueError where Yes is not a single token."""
        self.model = model
        self.batch_size = check_batch_size(batch_size)
        self.progress = progress
        self._yes = model.token("Yes")

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
        model = AnsweringVLM.from_pretrained(repo_or_dir, revision=revision, dtype=dtype, device=device)
        return cls(model, batch_size=batch_size, progress=progress)

    def __call__(self, prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[float]:
        """Returns one probability per image; raises what `VILAJudge.score` raises."""
        prompts = pair_prompts(prompt, images)
        scores: list[float] = []
        for places, batch in read_batches(images, self.batch_size, name="VQAScore", progress=self.progress):
            questions = [QUESTION.replace("{prompt}", self.model.clean(prompts[place])) for place in places]
            p_yes = self.model.ask(questions, batch).double().softmax(dim=1)[:, self._yes]  # (B,)
            scores += finite_scores(p_yes.tolist(), places)
        return scores
