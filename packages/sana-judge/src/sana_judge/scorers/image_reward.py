"""ImageReward: what people would prefer, by a reward model trained on their comparisons (Xu et al. 2023)."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Self

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from PIL import Image
from transformers import PreTrainedTokenizerBase

from sana_judge.checkpoint_reading import read_file, read_json
from sana_judge.hub_download import absence_explained
from sana_judge.image_reading import ImageLike
from sana_judge.judge_call import check_batch_size, finite_scores, pair_prompts, read_batches
from sana_judge.scorers.image_reward_network import ImageRewardNetwork, build_network
from sana_judge.scorers.model_loading import load_tokenizer
from sana_judge.scorers.pixels import OPENAI_CLIP, PixelReader

CHECKPOINT = "THUDM/ImageReward"
TOKENIZER = "google-bert/bert-base-uncased"

_WEIGHTS, _MED_CONFIG = "ImageReward.pt", "med_config.json"
_REMEDY = f"hf download {CHECKPOINT}"
# Of a prompt, [CLS] and [SEP] included; the rest is never seen.
_TOKENS = 35


class ImageReward:
    """(MLP(BLIP(image, prompt)) - 0.1672) / 1.0333, about 0 for an average image; the checkpoint is THUDM/ImageReward.

    The image's shorter side becomes 224 pixels (bicubic) and the middle is kept, the prompt is cut to 35 tokens, as
    released. The weights are a pickle and are read with weights_only=True.
    """

    def __init__(
        self,
        network: ImageRewardNetwork,
        tokenizer: PreTrainedTokenizerBase,
        pixels: PixelReader,
        *,
        batch_size: int = 32,
        progress: bool = True,
    ):
        """Takes what `from_pretrained` reads."""
        self.network = network
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
        tokenizer: str | PathLike[str] | None = None,
        batch_size: int = 32,
        progress: bool = True,
    ) -> Self:
        """Loads ImageReward.pt, and med_config.json if it is there, from the Hub or a folder.

        Args:
            repo_or_dir: A Hub repository (owner/name) or a folder.
            revision: Branch, tag or commit on the Hub.
            device: Where to put the network; None is the CPU.
            dtype: Of the weights; None keeps the file's, which is float32.
            tokenizer: Folder or repository of BERT's; None is the folder itself where it has one, else
                google-bert/bert-base-uncased.
            batch_size: Images per forward.
            progress: Whether to show a bar when it takes longer than a second.

        Raises:
            FileNotFoundError: There is no ImageReward.pt: says where to fetch it; or the Hub was not reached.
            ValueError: It is damaged or no checkpoint of ImageReward.
        """
        path = _find(repo_or_dir, _WEIGHTS, revision)
        if path is None:
            raise FileNotFoundError(f"{repo_or_dir} has no {_WEIGHTS}: fetch it from {CHECKPOINT} ({_REMEDY})")
        med_config = _find(repo_or_dir, _MED_CONFIG, revision)
        network = build_network(read_file(path), read_json(med_config) if med_config else {}, path)
        pixels = OPENAI_CLIP.of(path.parent, size=network.side)
        if tokenizer is None:
            tokenizer = path.parent if (path.parent / "tokenizer_config.json").is_file() else TOKENIZER
        return cls(
            network.to(device or "cpu", dtype),
            load_tokenizer(Path(tokenizer) if Path(tokenizer).is_dir() else str(tokenizer)),
            pixels,
            batch_size=batch_size,
            progress=progress,
        )

    def __call__(self, prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[float]:
        """Returns one reward per image; raises what `VILAJudge.score` raises."""
        prompts = pair_prompts(prompt, images)
        rewards: list[float] = []
        for places, batch in read_batches(images, self.batch_size, name="ImageReward", progress=self.progress):
            rewards += finite_scores(self._rewards([prompts[place] for place in places], batch), places)
        return rewards

    @torch.inference_mode()
    def _rewards(self, prompts: list[str], images: list[Image.Image]) -> list[float]:
        weight = next(self.network.parameters())
        tokens = self._tokenizer(prompts, padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt")
        tokens = tokens.to(weight.device)
        pixels = self._pixels(images).to(weight.device, weight.dtype)
        rewards: list[float] = self.network(pixels, tokens["input_ids"], tokens["attention_mask"]).tolist()
        return rewards


def _find(repo_or_dir: str | PathLike[str], name: str, revision: str | None) -> Path | None:
    """Returns a file of a folder or of a Hub repository, None where it has none of that name."""
    folder = Path(repo_or_dir)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    try:
        with absence_explained(repo_or_dir, revision):
            return Path(hf_hub_download(str(repo_or_dir), name, revision=revision))
    except (FileNotFoundError, PermissionError) as error:  # also of a Hub that was not reached, an EntryNotFoundError
        error.add_note(f"the checkpoint is {CHECKPOINT}: {_REMEDY}")
        raise
    except EntryNotFoundError:
        return None
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"no {name} in {str(repo_or_dir)!r}: give a folder that has it, or a Hub repository that can be fetched, "
            f"such as {CHECKPOINT} ({_REMEDY})"
        ) from error
