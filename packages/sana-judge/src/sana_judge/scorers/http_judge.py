"""A judge behind an OpenAI-compatible server: the verifier's question with the image in a data URI."""

import base64
import io
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from sana_judge.image_reading import ImageLike
from sana_judge.judge_call import pair_prompts, read_at
from sana_judge.scorers.chat_client import ChatClient, ChatError
from sana_judge.special_tokens import remove_likely_tokens
from sana_judge.vila.prompt import RELEASED_QUESTION

# Tokens of a reply: room for "**Yes**" and the like.
_REPLY_TOKENS = 16


class HTTPJudge:
    """P(yes) / (P(yes) + P(no)) of the first word of a server's answer; 1 or 0 where it tells no probabilities.

    Asks OpenAI-compatible servers (vLLM, SGLang, llama.cpp, hosted ones) for the 20 likeliest first words; spellings of
    yes and of no are added, and count where they hold more than half of the probability. A server that refuses logprobs
    is asked without them from then on. What looks like a special token in a prompt is taken out.

    Attributes:
        model: Name of the model on the server.
        question: What is asked, with {prompt} where the prompt belongs.
        concurrency: Most requests at a time.
        progress: Whether to show a bar when it takes longer than a second.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        question: str = RELEASED_QUESTION,
        concurrency: int = 4,
        timeout: float = 60.0,
        retries: int = 5,
        backoff: float = 1.0,
        progress: bool = True,
    ):
        """Takes an address such as https://host/v1; the key is `api_key`, else what `key_variable` holds, else none.

        Time-outs, lost connections, 429 and 5xx are asked again `retries` times, after `backoff` seconds, then twice as
        many and so on, or what the server asks for. The key is in no message and no repr.

        Raises ValueError where an argument is not allowed.
        """
        if "{prompt}" not in question:
            raise ValueError(f"the question is {question!r}; it must say {{prompt}} where the prompt belongs")
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; it must be at least 1")
        self.model = model
        self.question = question
        self.concurrency = concurrency
        self.progress = progress
        self._logprobs = True
        self._client = ChatClient(
            base_url, api_key=api_key, key_variable=key_variable, timeout=timeout, retries=retries, backoff=backoff
        )

    def __call__(self, prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[float]:
        """Returns one probability per image.

        Raises:
            ChatError: The server cannot be reached or refuses; an OSError.
            ValueError: An image is damaged or too large, there is not one prompt per image, or the answer is neither
                yes nor no.
        """
        prompts = pair_prompts(prompt, images)
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            with tqdm(total=len(images), desc="judging", unit="image", delay=1, disable=not self.progress) as bar:
                scores = []
                for score in pool.map(lambda place: self._judge(prompts[place], images, place), range(len(images))):
                    scores.append(score)
                    bar.update()
            return scores
        finally:
            pool.shutdown(cancel_futures=True)

    def _judge(self, prompt: str, images: Sequence[ImageLike], place: int) -> float:
        body = self._body(prompt, images, place)
        try:
            return p_yes(self._complete(body))
        except (ChatError, ValueError) as error:
            error.add_note(f"It is images[{place}].")
            raise

    def _body(self, prompt: str, images: Sequence[ImageLike], place: int) -> dict[str, Any]:
        png = io.BytesIO()
        read_at(images, place).save(png, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": address}},
            {"type": "text", "text": self.question.replace("{prompt}", remove_likely_tokens(prompt))},
        ]
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "max_tokens": _REPLY_TOKENS, "temperature": 0}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self._logprobs:
            return self._client.complete(body)
        try:
            return self._client.complete(body | {"logprobs": True, "top_logprobs": 20})
        except ChatError as error:
            if error.status not in (400, 422):
                raise
            reply = self._client.complete(body)
            self._logprobs = False
            return reply


def p_yes(reply: dict[str, Any]) -> float:
    """Returns the probability of yes against no in a chat completion, 1 or 0 where there are no logprobs of them.

    They are those of the first token that is a word: before "**Yes**" comes a token that is none.

    Raises ValueError where the reply is not a completion, or answers neither yes nor no.
    """
    try:
        choice = reply["choices"][0]
        text = str(choice["message"]["content"] or "")
        tokens = (choice.get("logprobs") or {}).get("content") or []
        first: dict[str, Any] = next((token for token in tokens if _word(str(token.get("token")))), {})
        likeliest = [(str(word["token"]), float(word["logprob"])) for word in first.get("top_logprobs") or []]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"the server's reply is not a chat completion (it has {sorted(reply)})") from error
    yes, no = (sum(math.exp(min(p, 0)) for word, p in likeliest if _word(word) == answer) for answer in ("yes", "no"))
    if yes + no > 0.5:
        return yes / (yes + no)
    if _word(text) not in ("yes", "no"):
        raise ValueError(f"the server answers {text[:80]!r}; it must answer yes or no: ask another model")
    return float(_word(text) == "yes")


def _word(text: str) -> str:
    """The first word of a text in small letters, without what surrounds it."""
    found = re.search(r"[^\W_]+", text)
    return found[0].lower() if found else ""
