"""Chat completions of an OpenAI-compatible server, asked with patience and without giving the key away."""

import email.utils
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

# Too busy, or a failure of the server's own: another attempt may succeed.
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 60.0  # seconds between attempts, whatever the server asks for
_MOST_BYTES = 2**22  # of a reply


class ChatClient:
    """One endpoint and its key. Usable from several threads.

    Attributes:
        url: Of the chat completions.
        timeout: Seconds without any answer after which an attempt has failed.
        retries: Attempts after the first, where an error may pass.
        backoff: Seconds before the second attempt, doubled for each one after; half of it is left to chance.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        retries: int = 5,
        backoff: float = 1.0,
    ):
        """Takes the address up to and with its version (https://host/v1), and a key or the variable that holds one.

        Raises ValueError where the address is not one of http or https, or a number is not allowed.
        """
        parts = urllib.parse.urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError(
                f"{_without_user(parts)!r} is not the address of a server: give one such as https://host/v1"
            )
        if timeout <= 0 or retries < 0 or backoff < 0:
            raise ValueError(
                f"timeout is {timeout}, retries {retries} and backoff {backoff}; timeout must be above 0, "
                "retries and backoff at least 0"
            )
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self._key = api_key or os.environ.get(key_variable)
        self._opener = urllib.request.build_opener(_NoRedirects())

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Posts a request and returns the reply.

        Raises:
            ChatError: The server refuses it, or still fails after all attempts; what it said, without the key.
        """
        for attempt in range(self.retries + 1):
            try:
                return self._post(body)
            except ChatError as error:
                if not error.passing or attempt == self.retries:
                    raise
                doubled = self.backoff * 2**attempt * random.uniform(0.5, 1)
                time.sleep(min(max(doubled, error.wait), _LONGEST_WAIT))
        raise AssertionError("the last attempt returns or raises")

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                content = response.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:  # URLError and time-outs among them
            raise ChatError(f"{self.url} cannot be reached ({self._hide(str(error))})", passing=True) from None
        return _reply(content, self.url)

    def _refusal(self, error: urllib.error.HTTPError) -> "ChatError":
        with error:
            try:
                said = error.read(1000).decode(errors="replace").strip()
            except (OSError, http.client.HTTPException):
                said = ""
        return ChatError(
            f"{self.url} answers {error.code} {error.reason}: {self._hide(said)[:300]}",
            status=error.code,
            passing=error.code in _PASSING,
            wait=_seconds(error.headers.get("Retry-After")),
        )

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class ChatError(OSError):
    """A server that cannot be reached, or what it says against a request.

    Attributes:
        status: Of HTTP, None where there was no answer.
        passing: Whether another attempt may succeed.
        wait: Seconds that the server asks to wait.
    """

    def __init__(self, message: str, *, status: int | None = None, passing: bool = False, wait: float = 0.0):
        super().__init__(message)
        self.status = status
        self.passing = passing
        self.wait = wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another server; without one it is an answer like any other error."""

    def redirect_request(self, *args: Any, **named: Any) -> None:
        return None


def _reply(content: bytes, url: str) -> dict[str, Any]:
    try:
        reply = json.loads(content)
    except ValueError:
        raise ChatError(f"{url} answers with something other than JSON: is it an OpenAI-compatible server?") from None
    if not isinstance(reply, dict):
        raise ChatError(
            f"{url} answers with a {type(reply).__name__}, not an object: is it an OpenAI-compatible server?"
        )
    return reply


def _seconds(retry_after: str | None) -> float:
    """Of a Retry-After header: a number of seconds or a date."""
    if not retry_after:
        return 0.0
    try:
        return max(float(retry_after), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def _without_user(parts: urllib.parse.SplitResult) -> str:
    """An address for a message; its user part may hold a password, its query a key."""
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
