"""The question a judge is asked: the released wording, the chat template around it, and the tokens of both."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sana_judge.special_tokens import SpecialTokens, single_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The verifier was trained on exactly these words, missing spaces included.
RELEASED_QUESTION = (
    "You are an AI assistant specializing in image analysis and ranking. Your task is to analyze and compare image "
    "based on how well they match the given prompt.\n"
    "The given prompt is:{prompt}. Please consider the prompt and the image to make a decision and response directly "
    "with 'yes' or 'no'."
)

_IMAGE = "<image>"
_MEDIA = (_IMAGE, "<vila/video>")
# VILA's own Qwen2 template, which its config.json may name instead of spelling it out: no full stop after the system
# message, where Qwen2's has one.
_QWEN2 = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}"
    "{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_NAMED_TEMPLATES = {"qwen2": _QWEN2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Tokens before the image and after it."""

    head: tuple[int, ...]
    tail: tuple[int, ...]


class QuestionWriter:
    """Turns prompts into questions; one per judge.

    Attributes:
        yes, no: Tokens of the two answers.
        newline: Tokens that follow each tile.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        wording: str = RELEASED_QUESTION,
        chat_template: str | None = None,
        break_after_tiles: bool = True,
    ):
        """Takes a tokenizer, the wording with its {prompt}, and a chat template: Jinja, a name, or the tokenizer's.

        Raises ValueError where the wording has no {prompt}, there is no template or it is broken, or an answer is not
        one token.
        """
        if "{prompt}" not in wording:
            raise ValueError(f"the wording is {wording!r}; it must say {{prompt}} where the prompt belongs")
        self._tokenizer = tokenizer
        self._wording = wording
        self._template = _find_template(tokenizer, chat_template)
        self._template_of = "config.json" if chat_template else f"the tokenizer in {tokenizer.name_or_path}"
        self._chat(_IMAGE)  # a broken template is told before weights are put to work
        self._break = "\n" if break_after_tiles else ""
        self._special = SpecialTokens(tokenizer, *_MEDIA)
        self.newline = self._encode("\n")
        self.yes, self.no = (single_token(tokenizer, word) for word in ("yes", "no"))

    def write(self, prompt: str) -> Question:
        """Returns the tokens around the image; special tokens in the prompt are taken out of it.

        Raises TypeError if the prompt is not a string.
        """
        if not isinstance(prompt, str):
            raise TypeError(f"a prompt is {prompt!r}; it must be a string")
        text = self._wording.replace("{prompt}", self._special.remove(prompt))
        head, tail = self._chat(f"{_IMAGE}{self._break}{text.rstrip()}").split(_IMAGE)
        return Question(head=tuple(self._encode(head)), tail=tuple(self._encode(tail)))

    def _chat(self, content: str) -> str:
        from jinja2 import TemplateError

        messages = [{"role": "user", "content": content}]
        try:  # transformers renders templates in Jinja's sandbox
            text = self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise ValueError(
                f"the chat_template of {self._template_of} is broken ({error}): download the checkpoint again"
            ) from error
        assert isinstance(text, str)
        if text.count(_IMAGE) != 1:
            raise ValueError(f"the chat template writes {text.count(_IMAGE)} images for one: {text!r}")
        return text

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens


def _find_template(tokenizer: "PreTrainedTokenizerBase", chat_template: str | None) -> str:
    template = _NAMED_TEMPLATES.get(chat_template or "", chat_template) or tokenizer.chat_template
    if not isinstance(template, str):
        raise ValueError("neither config.json nor the tokenizer has a chat_template: add one to tokenizer_config.json")
    if "{" not in template:
        raise ValueError(f"chat_template is {template!r}; it must be Jinja or one of {sorted(_NAMED_TEMPLATES)}")
    return template
