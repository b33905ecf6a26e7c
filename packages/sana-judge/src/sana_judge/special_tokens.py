"""Special tokens in what people write: taken out, so that no prompt can end its own message or add an image."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Gemma's vocabulary has added tokens for runs of these, which mean nothing but themselves.
_BLANKS = " \t\n▁"
# How the tokens of chats and images are written: <|im_end|>, <image>, </s>, <__media__>, [INST].
_WRITTEN = re.compile(r"<[|｜][^<>]*[|｜]>|</?\w+>|\[/?(?:INST|IMG\w*|SYSTEM_PROMPT)\]")


class SpecialTokens:
    """The special and added tokens of a tokenizer, and others if given."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *others: str):
        tokens = {*others, *tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        longest_first = sorted((token for token in tokens if token.strip(_BLANKS)), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def remove(self, text: str) -> str:
        """Takes them out of a text, also what taking out brings together."""
        return _without(self._pattern, text)


def remove_likely_tokens(text: str) -> str:
    """Takes out what looks like a special token, for a model whose tokenizer is not here."""
    return _without(_WRITTEN, text)


def single_token(tokenizer: "PreTrainedTokenizerBase", word: str) -> int:
    """Returns the token of an answer; raises ValueError where the tokenizer splits it or does not know it."""
    tokens: list[int] = tokenizer(word, add_special_tokens=False)["input_ids"]
    if tokens == [tokenizer.unk_token_id]:
        raise ValueError(f"the tokenizer does not know {word!r}; a judge needs it as a single token")
    if len(tokens) != 1:
        raise ValueError(f"the tokenizer splits {word!r} into {len(tokens)} tokens; a judge needs a single one")
    return tokens[0]


def _without(pattern: re.Pattern[str], text: str) -> str:
    while (cleaned := pattern.sub("", text)) != text:
        text = cleaned
    return text
