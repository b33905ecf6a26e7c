"""The tokenizer of the emoji model: Gemma's, with a vocabulary of the emoji world's words."""

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GemmaTokenizer

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
LETTERS = tuple("▁abcdefghijklmnopqrstuvwxyz")
VOCABULARY = 640


def train_tokenizer(captions: Iterable[str]) -> GemmaTokenizer:
    """Learn merges that stay within a word; Chinese characters and emoji stay single.

    Gemma's own pre-tokenizer keeps a sentence whole: on captions as regular as these its trainer would make
    "red apples" one token, and an unseen pair of words could not be read. Characters never seen are spelled in bytes.
    """
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    learner.normalizer = normalizers.Replace(" ", "▁")
    words = pre_tokenizers.Split("▁", "merged_with_next")
    symbols = pre_tokenizers.Split(Regex(r"[^\x00-\x7F▁]"), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([words, symbols])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[*SPECIAL, *BYTES], initial_alphabet=[*LETTERS], show_progress=False
    )
    learner.train_from_iterator(captions, trainer)
    learned = json.loads(learner.to_str())["model"]
    tokenizer = GemmaTokenizer(vocab=learned["vocab"], merges=[tuple(pair) for pair in learned["merges"]])
    tokenizer.padding_side = "right"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return tokenizer
