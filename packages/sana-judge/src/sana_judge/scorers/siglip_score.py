"""SigLIP score: the probability that an image and a text belong together (Zhai et al. 2023, section 3.2)."""

from collections.abc import Sequence
from os import PathLike
from typing import Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase, SiglipModel

from sana_judge.image_reading import ImageLike
from sana_judge.judge_call import check_batch_size, finite_scores, pair_prompts, read_batches
from sana_judge.scorers.model_loading import find_model, load_model, load_tokenizer
from sana_judge.scorers.pixels import SIGLIP, PixelReader

CHECKPOINT = "google/siglip-so400m-patch14-384"


class SigLIPScore:
    """sigmoid(scale * cos(image, prompt) + bias), scale and bias being the model's, in (0, 1).

    For any fixed-resolution SigLIP or SigLIP 2 model. It reads 64 tokens of a prompt and never sees the rest.
    """

    def __init__(
        self,
        model: SiglipModel,
        tokenizer: PreTrainedTokenizerBase,
        pixels: PixelReader,
        *,
        batch_size: int = 32,
        progress: bool = True,
    ):
        """Takes what `from_pretrained` reads."""
        self.model = model
        self.batch_size = check_batch_size(batch_size)
        self.progress = progress
        self._tokenizer = tokenizer
        self._pixels = pixels

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | PathLike[str] = CHECKPOINT,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 32,
        progress: bool = True,
    ) -> Self:
        """Loads a SigLIP model from the Hub or a folder; dtype None is the file's, device None the CPU.

        Raises:
            FileNotFoundError: There is no such model, or it has no weights: says what to fetch.
            ImportError: Its tokenizer needs sentencepiece, which is not installed.
            ValueError: It is damaged, or not a SigLIP model of fixed resolution.
        """
        root = find_model(repo_or_dir, revision=revision, kinds=("siglip",), example=CHECKPOINT)
        model = load_model(SiglipModel, root, dtype=dtype, device=device)
        pixels = SIGLIP.of(root, size=model.config.vision_config.image_size)
        return cls(model, load_tokenizer(root), pixels, batch_size=batch_size, progress=progress)

    def __call__(self, prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[float]:
        """Returns one probability per image; raises what `VILAJudge.score` raises."""
        prompts = pair_prompts(prompt, images)
        scores: list[float] = []
        for places, batch in read_batches(images, self.batch_size, name="SigLIP", progress=self.progress):
            logits = self._logits([prompts[place] for place in places], batch)  # (B,)
            scores += finite_scores(logits.double().sigmoid().tolist(), places)  # float32 would tie at 1
        return scores

    @torch.inference_mode()
    def _logits(self, prompts: list[str], images: list[Image.Image]) -> Tensor:
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        read = self.model.text_model(input_ids=self._tokens(list(rows))).pooler_output  # (distinct, D)
        read = read[[rows[prompt] for prompt in prompts]]  # (B, D)
        seen = self.model.vision_model(self._pixels(images).to(self.model.device, self.model.dtype)).pooler_output
        cosines = F.cosine_similarity(seen.float(), read.float())  # (B,)
        return cosines * self.model.logit_scale.float().exp() + self.model.logit_bias.float()

    def _tokens(self, prompts: list[str]) -> Tensor:
        """(distinct, L); SigLIP was trained on texts padded to its full length, without a mask."""
        tokens: Tensor = self._tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=self.model.text_model.config.max_position_embeddings,
            return_tensors="pt",
        )["input_ids"]
        return tokens.to(self.model.device)
