"""Prompts to caption states: a small language model reads an instruction and the prompt (SANA, section 2.3)."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor

from sana_dit.caption_facts import CaptionFacts
from sana_dit.caption_files import (
    SAVED_WEIGHTS,
    caption_card,
    find_caption_files,
    import_transformers,
    load_text_encoder,
    load_tokenizer,
    save_caption_files,
)
from sana_dit.complex_human_instruction import COMPLEX_HUMAN_INSTRUCTION
from sana_dit.config import Compat
from sana_dit.hub_upload import check_finite, upload
from sana_dit.quantization import check_unquantized

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Captions(NamedTuple):
    """What the transformer attends to; unpacks into its arguments caption and caption_mask.

    Attributes:
        embeddings: States of the text encoder (B, L, caption_channels).
        mask: 1 where a token counts, 0 on padding (B, L), int64.
    """

    embeddings: Tensor
    mask: Tensor


class CaptionCutWarning(UserWarning):
    """A prompt was longer than a caption, and its end was cut off."""


class CaptionEncoder:
    """A tokenizer and a language model whose last hidden states are the caption.

    B prompts, L = max_tokens caption tokens, T tokens of the language model: L and those of the instruction.

    Attributes:
        tokenizer: Pads and cuts off on the right; set so, whatever it was before.
        text_encoder: Any model of transformers that returns last_hidden_state, Gemma-2 in every public checkpoint.
        compat: "diffusers" lower-cases prompts, "native" keeps their case; each has its spelling of the instruction.
        chi: Whether prompts follow the complex human instruction unless a call says otherwise.
        max_tokens: Caption tokens per prompt, L.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        text_encoder: "PreTrainedModel",
        *,
        compat: Compat = "diffusers",
        chi: bool = True,
        max_tokens: int = 300,
    ):
        CaptionFacts(compat=compat, chi=chi, max_tokens=max_tokens)  # which it checks
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        if getattr(text_encoder.config, "attn_logit_softcapping", None):
            # Only eager attention caps the logits as Gemma-2 was trained; the default of transformers 4.53, SDPA,
            # leaves the cap out without a word.
            text_encoder.config._attn_implementation = "eager"
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.compat: Compat = compat
        self.chi = chi
        self.max_tokens = max_tokens

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | Path,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        compat: Compat | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        chi: bool | None = None,
        max_tokens: int | None = None,
    ) -> Self:
        """Loads a caption encoder in eval mode.

        Args:
            repo_or_dir: A Hub id or a folder: a pipeline with text_encoder/ and tokenizer/, or a language model.
            subfolder: Folder inside it that holds the text encoder or the pipeline.
            revision: Branch, tag or commit on the Hub.
            compat: Whose tokens to reproduce. This, chi and max_tokens are read from sana.json if None; without one
                they are "diffusers", True and 300, which is right for the public `*_diffusers` checkpoints.
            dtype: Of the text encoder; None keeps the files' own. Files of a bfloat16 or float16 variant are
                taken for those dtypes where a checkpoint has them, and where it has nothing else.
            device: Where to put the text encoder.
            chi: See the class.
            max_tokens: See the class.

        Raises:
            FileNotFoundError: if there is no text encoder, tokenizer or safetensors file in it.
            ImportError: if transformers is not installed.
            ValueError: if a file is damaged, or weights are missing or of another shape.
        """
        import_transformers()  # before anything is downloaded
        files = find_caption_files(repo_or_dir, subfolder=subfolder, revision=revision, dtype=dtype)
        text_encoder = load_text_encoder(files, dtype)
        tokenizer = load_tokenizer(files)
        facts = files.facts
        encoder = cls(
            tokenizer,
            text_encoder,
            compat=facts.compat if compat is None else compat,
            chi=facts.chi if chi is None else chi,
            max_tokens=facts.max_tokens if max_tokens is None else max_tokens,
        )
        return encoder if device is None else encoder.to(device)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes text_encoder/ (with sana.json) and tokenizer/ into directory, as in diffusers' pipeline folders.

        Raises ValueError if the text encoder is quantised.
        """
        check_unquantized(self.text_encoder)
        facts = CaptionFacts(compat=self.compat, chi=self.chi, max_tokens=self.max_tokens)
        save_caption_files(Path(directory), self.text_encoder, self.tokenizer, facts)

    def push_to_hub(
        self, repo: str, *, licence: str | None = None, private: bool = False, token: str | None = None
    ) -> str:
        """Publishes text_encoder/ and tokenizer/ as owner/name on the Hub and returns the URL of the commit.

        It gets a card if it has none, which names the licence of the weights as the Hub spells it ("gemma"). It
        replaces weights uploaded earlier.

        Raises ValueError if weights are quantised or not finite, private is asked of a repository that is public, or
        repo or licence cannot be one; PermissionError if the Hub does not let this token write there.
        """
        check_finite(self.text_encoder.state_dict())
        card = caption_card(repo, self.text_encoder.num_parameters())
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.save_pretrained(folder)
            return upload(folder, repo, card=card, weights=SAVED_WEIGHTS, licence=licence, private=private, token=token)

    def __call__(self, prompts: str | Sequence[str], *, chi: bool | None = None) -> Captions:
        """Encodes prompts; negative prompts are encoded with chi=False.

        A prompt may be empty. A CaptionCutWarning has the words that were cut off where one is longer than max_tokens.
        Raises ValueError if there is no prompt, or one of which no token is left.
        """
        with torch.no_grad():
            return self.encode(*self.tokenize(prompts, chi=chi))

    def tokenize(self, prompts: str | Sequence[str], *, chi: bool | None = None) -> tuple[Tensor, Tensor]:
        """Returns token ids and their mask, both (B, T) int64 on the CPU, with the instruction in front if chi."""
        texts = [self._normalize(prompt) for prompt in _as_list(prompts)]
        length = self.max_tokens
        if self.chi if chi is None else chi:
            instruction = COMPLEX_HUMAN_INSTRUCTION[self.compat]
            texts = [instruction + text for text in texts]
            # BOS is counted in both terms, and the instruction's last token leads the tail that `encode` keeps.
            length += len(self.tokenizer.encode(instruction)) - 2
        self._warn_of_cuts(texts, length)
        tokens = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        if not mask.any(dim=1).all():
            raise ValueError(
                "a prompt has no tokens, and this tokenizer adds none of its own: "
                "give a tokenizer that starts texts with BOS, or prompts that are not empty"
            )
        return ids, mask

    def encode(self, ids: Tensor, mask: Tensor) -> Captions:
        """Returns the caption states of what `tokenize` returns; unlike a call it lets gradients through.

        Of T states L are kept: the first, which is BOS, and the last L - 1 (SANA, section 2.3).
        """
        ids, mask = ids.to(self.text_encoder.device), mask.to(self.text_encoder.device)
        options = {"use_cache": False} if getattr(self.text_encoder.config, "use_cache", False) else {}
        states = self.text_encoder(ids, attention_mask=mask, **options).last_hidden_state  # (B, T, C)
        return Captions(self._keep(states), self._keep(mask))  # (B, L, C), (B, L)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves the text encoder to a device or a dtype, in place."""
        module: torch.nn.Module = self.text_encoder
        module.to(device=device, dtype=dtype)
        return self

    def _normalize(self, prompt: str) -> str:
        return prompt.lower().strip() if self.compat == "diffusers" else prompt.strip()

    def _keep(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], x[:, x.shape[1] - self.max_tokens + 1 :]], dim=1)

    def _warn_of_cuts(self, texts: list[str], length: int) -> None:
        for ids in self.tokenizer(texts, verbose=False)["input_ids"]:
            if len(ids) > length:
                lost = self.tokenizer.decode(ids[length:], skip_special_tokens=True)
                warnings.warn(
                    f"a prompt is {len(ids) - length} tokens longer than the {self.max_tokens} of a caption; "
                    f"cut off: {lost!r}",
                    CaptionCutWarning,
                    stacklevel=4,
                )


def _as_list(prompts: str | Sequence[str]) -> list[str]:
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise ValueError("prompts is empty; it must hold at least one prompt, which may be ''")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"a prompt is {prompt!r}; it must be a string")
    return prompts
