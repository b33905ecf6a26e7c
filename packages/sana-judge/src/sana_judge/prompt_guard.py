"""A filter of prompts: ShieldGemma says how likely one violates each of four policies (arXiv:2407.21772)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Self

import torch
from torch import Tensor
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerBase

from sana_judge.float32_logits import float32_logits
from sana_judge.guard_policies import POLICIES, ask_about
from sana_judge.judge_call import not_finite
from sana_judge.scorers.model_loading import find_model, load_model, load_tokenizer
from sana_judge.special_tokens import SpecialTokens, single_token

CHECKPOINT = "google/shieldgemma-2b"


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardVerdict:
    """What a guard says of a prompt.

    Attributes:
        probabilities: That it violates a policy, by the policy's name.
        threshold: The least probability that is a violation.
    """

    probabilities: Mapping[str, float]
    threshold: float

    @property
    def violations(self) -> dict[str, float]:
        """The policies it violates with their probabilities, the surest first."""
        surest_first = sorted(self.probabilities.items(), key=lambda item: -item[1])
        return {policy: p for policy, p in surest_first if p >= self.threshold}

    @property
    def allowed(self) -> bool:
        """Whether it violates none."""
        return not self.violations


class PromptGuard:
    """softmax(logit of Yes, logit of No) of the first word of ShieldGemma's answer, for each policy on its own.

    ShieldGemma was made for English. Its weights are under the Gemma terms of use.

    Attributes:
        threshold: The least probability that is a violation, in (0, 1].
        policies: Their names and wordings.
    """

    def __init__(
        self,
        model: Gemma2ForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        *,
        threshold: float = 0.5,
        policies: Mapping[str, str] = POLICIES,
    ):
        """Takes what `from_pretrained` reads."""
        self.model = model
        self.threshold = _check_threshold(threshold)
        self.policies = dict(policies)
        self._tokenizer = tokenizer
        self._special = SpecialTokens(tokenizer)
        self._answers = [single_token(tokenizer, word) for word in ("Yes", "No")]

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | PathLike[str] = CHECKPOINT,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        threshold: float = 0.5,
        policies: Mapping[str, str] = POLICIES,
    ) -> Self:
        """Loads ShieldGemma from the Hub or a folder; dtype None is the file's, device None the CPU.

        Raises:
            FileNotFoundError: The weights are not there: says where they are and whose terms they have.
            ValueError: They are damaged or not a Gemma 2 language model, or the threshold is not allowed.
        """
        _check_threshold(threshold)
        try:
            root = find_model(repo_or_dir, revision=revision, kinds=("gemma2",), example=CHECKPOINT)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the prompt guard has no weights: {error}. To download them, accept the Gemma terms of use "
                f"(https://ai.google.dev/gemma/terms) at https://huggingface.co/{CHECKPOINT} and log in (hf auth login)"
            ) from error
        model = load_model(Gemma2ForCausalLM, root, dtype=dtype, device=device)
        return cls(model, load_tokenizer(root), threshold=threshold, policies=policies)

    def __call__(self, prompt: str) -> GuardVerdict:
        """Returns the probability that a prompt violates each policy; special tokens in it are taken out.

        Raises:
            FloatingPointError: The model computed NaN: no prompt passes for that.
            TypeError: The prompt is not a string.
            ValueError: It is too long for the model.
        """
        if not isinstance(prompt, str):
            raise TypeError(f"a prompt is {prompt!r}; it must be a string")
        questions = [ask_about(policy, self._special.remove(prompt)) for policy in self.policies.values()]
        violated = self._logits(questions).softmax(dim=1)[:, 0].tolist()
        if not all(map(math.isfinite, violated)):
            raise not_finite("the guard's answer", violated)
        return GuardVerdict(
            probabilities=dict(zip(self.policies, violated, strict=True)),
            threshold=self.threshold,
        )

    @torch.inference_mode()
    def _logits(self, questions: list[str]) -> Tensor:
        """Of Yes and No, for each question: (B, 2), float64."""
        rows = [self._tokenizer(question, return_tensors="pt")["input_ids"][0] for question in questions]
        self._check_length(max(map(len, rows)))
        states = []
        for row in rows:  # of unlike lengths, and there are four
            tokens = row[None].to(self.model.device)
            states.append(self.model.model(input_ids=tokens).last_hidden_state[0, -1])  # (D,)
        logits = float32_logits(torch.stack(states), self.model.lm_head.weight[self._answers])  # (B, 2)
        if cap := self.model.config.final_logit_softcapping:
            logits = cap * (logits / cap).tanh()
        return logits.double()

    def _check_length(self, length: int) -> None:
        most = self.model.config.max_position_embeddings
        if length > most:
            raise ValueError(
                f"prompt and policy are {length} tokens; the guard reads at most {most}: shorten the prompt"
            )


def _check_threshold(threshold: float) -> float:
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be above 0 and at most 1")
    return threshold
