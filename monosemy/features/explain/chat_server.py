"""A server with OpenAI's chat interface (vLLM, llama.cpp, Ollama, hosted ones) as a chat model.

Place on the data's path: `explanations` → [HTTP] → a server. A key is read from OPENAI_API_KEY. It is sent only over
https or to this machine, and never written anywhere. Redirects are not followed, since they could carry the key
elsewhere.

P(yes) and digits come from the reply's log-probabilities. Up to 20 alternatives per token are asked for; if the server
refuses, 5, and then none.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from monosemy.errors import UserError
from monosemy.features.explain.answers import FOLDED, answer_probability, expected_digit
from monosemy.models.prompts import Messages, fold_system

_TIMEOUT_SECONDS = 120.0
_WAITS = (1.0, 4.0, 15.0)
"""Seconds to wait before each further try when the server is busy (429, 5xx)."""
_ALTERNATIVES = (20, 5, 0)
_MAX_BYTES = 16 << 20


class ServerChat:
    """One model of a server; `url` may be given with or without the ending /v1.

    Raises UserError for an address that cannot be used, or when `model` is missing and the server has not exactly one.
    """

    def __init__(self, url: str, model: str | None = None) -> None:
        self._url = _base(url)
        self._key = _key_for(self._url)
        self._alternatives = list(_ALTERNATIVES)
        self.note = ""
        self._opener = urllib.request.build_opener(_NoRedirect)
        self.name = self._choose(model)
        self.identity = f"{self._url} {self.name}"

    def fits(self, messages: Messages, n_reply_tokens: int) -> bool:
        return True  # a server does not tell its limit; it refuses a prompt that is too long

    def reply(self, messages: Messages, n_tokens: int) -> str:
        return str(self._ask(messages, n_tokens)["message"].get("content") or "").strip()

    def yes(self, messages: Messages) -> tuple[float | None, str]:
        choice = self._ask_with_probabilities(messages, 1)
        text = str(choice["message"].get("content") or "").strip()
        written = _token_alternatives(choice)
        return (answer_probability(written[0][1]) if written else None), text

    def digits(self, messages: Messages, pieces: Sequence[str]) -> list[float] | None:
        """Has the server write `piece⇥digit` lines; None unless they hold exactly one digit for every piece."""
        # only a digit right after a tab counts: pieces may contain digits of their own
        request = [*messages, {"role": "user", "content": "\n".join(f"{piece}\t?" for piece in pieces)}]
        choice = self._ask_with_probabilities(request, 12 * len(pieces) + 16)
        digits: list[float] = []
        line = ""
        for text, alternatives in _token_alternatives(choice):
            # the line so far with the token's own white space: a token may be "\t7", or the tab a token by itself
            before = line + text[: len(text) - len(text.lstrip())]
            digit = expected_digit(alternatives) if text.strip().isdigit() and before.endswith("\t") else None
            if digit is not None:
                digits.append(digit)
            line = (line + text).rsplit("\n", 1)[-1]
        return digits if len(digits) == len(pieces) else None

    def _ask_with_probabilities(self, messages: Messages, n_tokens: int) -> Any:
        """The reply with as many alternatives per token as the server allows."""
        # the first number that the server accepts is remembered, so that later questions start with it
        for k, n in enumerate(self._alternatives):
            extra = {"logprobs": True, "top_logprobs": n} if n else {}
            try:
                choice = self._ask(messages, n_tokens, **extra)
            except _Refused as refused:
                if refused.status not in (400, 422) or n == self._alternatives[-1]:
                    raise
                continue
            self._alternatives = self._alternatives[k:]
            return choice
        raise AssertionError("unreachable")

    def _ask(self, messages: Messages, n_tokens: int, **extra: Any) -> Any:
        """The first choice of a greedy reply. Folds the system message if the server refuses it."""
        body = {"model": self.name, "max_tokens": n_tokens, "temperature": 0, **extra}
        try:
            response = self._request("/chat/completions", body | {"messages": self._sent_messages(messages)})
        except _Refused as refused:
            has_system = any(message["role"] == "system" for message in messages)
            if self.note or not has_system or "system" not in refused.reason.lower():
                raise
            # servers answer so for templates without a system role, such as Gemma's and old Mistral's
            response = self._request("/chat/completions", body | {"messages": fold_system(messages)})
            self.note = FOLDED.format(self.name)
        try:
            choice = response["choices"][0]
            if not isinstance(choice["message"], dict):
                raise TypeError
        except (KeyError, IndexError, TypeError):
            raise UserError(
                f"{self._url} answered without a reply; is it a server of OpenAI's chat interface?"
            ) from None
        return choice

    def _sent_messages(self, messages: Messages) -> Messages:
        return fold_system(messages) if self.note else messages

    def _choose(self, model: str | None) -> str:
        """The model to ask: the named one, or the only one that the server lists."""
        if model:
            return model
        try:
            names = [str(entry["id"]) for entry in self._request("/models")["data"]]
        except (KeyError, TypeError):
            raise UserError(f"{self._url} does not list its models; name one: --model NAME") from None
        if len(names) != 1:
            raise UserError(f"{self._url} has {len(names)} models ({', '.join(names[:24])}); name one: --model NAME")
        return names[0]

    def _request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """One HTTP request, repeated after a wait while the server is busy; returns the parsed JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self._url + path, data, headers)
        # None marks the last try, which raises instead of waiting
        for wait in (*_WAITS, None):
            try:
                with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                    return json.loads(response.read(_MAX_BYTES))
            except urllib.error.HTTPError as error:
                if wait is None or (error.code != 429 and error.code < 500):
                    raise _Refused(self._url, error.code, _reason(error)) from None
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                raise UserError(
                    f"chat server {self._url} does not answer ({getattr(error, 'reason', error)}); "
                    "start it, or check the address in --chat"
                ) from None
            except ValueError:
                raise UserError(f"{self._url}{path} answered with something that is no JSON; check --chat") from None
            time.sleep(wait)
        raise AssertionError("unreachable")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: following it would send the key to another address."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


class _Refused(UserError):
    """Raised when the server answers with an HTTP error."""

    def __init__(self, url: str, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        fixes = {401: "set OPENAI_API_KEY", 403: "set OPENAI_API_KEY", 404: "check --chat and --model"}
        super().__init__(f"chat server {url} refuses (HTTP {status}: {reason}); {fixes.get(status, 'see its log')}")


def _base(url: str) -> str:
    """The address without a trailing /chat/completions, query or fragment; /v1 is added to one without a path."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--chat {url!r} is no address; give http://HOST:PORT/v1 or https://…, embedded, or a folder")
    if parts.username or parts.password:
        raise UserError("--chat must not hold a password; set OPENAI_API_KEY instead")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path or "/v1", "", ""))


def _key_for(url: str) -> str | None:
    """OPENAI_API_KEY if it may be sent to this address (https or this machine), else None."""
    key = os.environ.get("OPENAI_API_KEY")
    parts = urllib.parse.urlsplit(url)
    return key if key and (parts.scheme == "https" or _is_loopback(parts.hostname or "")) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: urllib.error.HTTPError) -> str:
    """The server's own words about an error, shortened to 200 characters."""
    text = error.read(4096).decode("utf-8", "replace")
    try:
        document = json.loads(text)
        inner = document.get("error", document)
        text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:200] or str(error.reason)


def _token_alternatives(choice: Any) -> list[tuple[str, list[tuple[str, float]]]]:
    """(text, [(alternative, probability), …]) of every token of a reply; empty if the server gives none."""
    entries = (choice.get("logprobs") or {}).get("content") or []
    tokens = []
    for entry in entries:
        alternatives = entry.get("top_logprobs") or [entry]
        tokens.append((str(entry["token"]), [(str(a["token"]), math.exp(float(a["logprob"]))) for a in alternatives]))
    return tokens
