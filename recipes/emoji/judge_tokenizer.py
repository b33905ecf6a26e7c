"""The tokenizer of the emoji judge: bytes and merges as Qwen2's, with a vocabulary of this world's words."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
# The least that tells where a message starts and ends: every token more is read for every question.
CHAT_TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
VOCABULARY = 1024
ANSWERS = ("yes", "no")


def train_judge_tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn merges within English words and within single characters of everything else.

    A Chinese caption is one word to Qwen2's own pre-tokenizer: whole phrases would become tokens, and an unseen pair of
    words could not be read. Text of any kind can be encoded, byte by byte if need be.
    """
    learner = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r"[^\x00-\x7F]| ?[A-Za-z]+|\s|[^\sA-Za-z]"), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator([*captions, *ANSWERS * 1000], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=learner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<image>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
