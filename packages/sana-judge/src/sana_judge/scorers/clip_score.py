"""CLIPScore: the cosine of what CLIP sees and reads (Hessel et al. 2021, section 3)."""

from collections.abc import Sequence
from os import PathLike
from typing import Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, PreTrainedTokenizerBase

from sana_judge.image_reading import ImageLike
from sana_judge.judge_call import check_batch_size, finite_scores, pair_prompts, read_batches
from sana_judge.scorers.clip_model import CHECKPOINT, image_features, text_features
from sana_judge.scorers.model_loading import find_model, load_model, load_tokenizer
from sana_judge.scorers.pixels import OPENAI_CLIP, PixelReader


class CLIPScore:
    """2.5 * max(cos(image, "A photo depicts " + prompt), 0), in [0, 2.5].

    The paper measured openai/clip-vit-base-patch32; openai/clip-vit-large-patch14 is what text-to-image papers use.
    With `prefix=""` it is 1/40 of torchmetrics' CLIPScore. CLIP reads 77 tokens of a prompt and never sees the rest.
    """

    weight = 2.5

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        pixels: PixelReader,
        *,
        prefix: str = "A photo depicts ",
        batch_size: int = 32,
        progress: bool = True,
    ):
        """Takes what `from_pretrained` reads."""
        self.model = model
        self.prefix = prefix
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
        prefix: str = "A photo depicts ",
        batch_size: int = 32,
        progress: bool = True,
    ) -> Self:
        """Loads a CLIP model from the Hub or a folder; dtype None is the file's, device None the CPU.

        Raises:
            FileNotFoundError: There is no such model, or it has no weights: says what to fetch.
            ValueError: It is damaged, or not a CLIP model.
        """
        root = find_model(repo_or_dir, revision=revision, kinds=("clip",), example=CHECKPOINT)
        model = load_model(CLIPModel, root, dtype=dtype, device=device)
        pixels = OPENAI_CLIP.of(root, size=model.config.vision_config.image_size)
        return cls(model, load_tokenizer(root), pixels, prefix=prefix, batch_size=batch_size, progress=progress)

    def __call__(self, prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[float]:
        """Returns one score per image; raises what `VILAJudge.score` raises."""
        prompts = pair_prompts(prompt, images)
        scores: list[float] = []
        for places, batch in read_batches(images, self.batch_size, name="CLIPScore", progress=self.progress):
            cosines = self._cosines([prompts[place] for place in places], batch)  # (B,)
            scores += finite_scores((self.weight * cosines.clamp(min=0)).tolist(), places)
        return scores

    @torch.inference_mode()
    def _cosines(self, prompts: list[str], images: list[Image.Image]) -> Tensor:
        seen = image_features(self.model, self._pixels(images))  # (B, D)
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        read = text_features(self.model, self._tokens(list(rows)))  # (distinct, D)
        return F.cosine_similarity(seen, read[[rows[prompt] for prompt in prompts]])  # (B,)

    def _tokens(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens = self._tokenizer(
            [self.prefix + prompt for prompt in prompts],
            padding=True,
            truncation=True,
            max_length=self.model.text_model.config.max_position_embeddings,
            return_tensors="pt",
        )
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
