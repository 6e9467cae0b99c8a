"""A chat model behind any OpenAI-compatible endpoint: concurrent, retried, cached on disk, budgeted."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import os
import pathlib
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.errors import InvalidValueError, UserError
from selfadapt.parallel.distributed import broadcast, is_main

OPENAI = "https://api.openai.com/v1"
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class EndpointError(UserError, RuntimeError):
    """The endpoint gave no usable reply. Its earlier replies are in the cache."""


class BudgetExceeded(EndpointError):
    """A call would take more requests than allowed. The replies so far are in the cache."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would carry the API key to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


class _Cache:
    """Replies by key in an append-only file, one JSON object per line, written before they are used."""

    def __init__(self, path: pathlib.Path | None):
        """Reads the file if it exists; `None` keeps replies in memory."""
        self._path = path
        self._lock = threading.Lock()
        self._replies: dict[str, str] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                    self._replies[record["key"]] = record["reply"]
                except (ValueError, KeyError, TypeError):
                    continue  # a line that a crash cut short; its request is sent again

    def get(self, key: str) -> str | None:
        with self._lock:
            return self._replies.get(key)

    def put(self, key: str, reply: str, **about: Any) -> None:
        with self._lock:
            self._replies[key] = reply
            if self._path is None:
                return
            # The leading newline ends a line that an earlier crash may have left incomplete.
            line = "\n" + json.dumps({"key": key, "reply": reply, **about}, ensure_ascii=True) + "\n"
            with open(self._path, "ab") as file:
                file.write(line.encode("ascii"))


class Endpoint:
    """A chat model that is asked over HTTP.

    Equal requests are sent once. A reply is on disk before it is used, so a run that fails or exhausts its budget pays
    for no reply twice. Of several processes only process 0 sends requests, and broadcasts the replies.
    """

    _called = "the endpoint"  # in messages

    def __init__(
        self,
        model: str,
        *,
        url: str = OPENAI,
        api_key_env: str | None = "OPENAI_API_KEY",
        cache: str | pathlib.Path | None = None,
        max_requests: int | None = None,
        concurrency: int = 8,
        attempts: int = 5,
        backoff: float = 1.0,
        timeout: float = 60.0,
        parameters: Mapping[str, Any] | None = None,
    ):
        """Describes the endpoint; nothing is sent yet.

        Args:
          model: the model's name at the endpoint.
          url: the API's root; requests go to `url + "/chat/completions"`.
          api_key_env: the environment variable that holds the key; `None` for a server without keys.
          cache: a JSONL file of replies, made if absent; `None` keeps them in memory.
          max_requests: the most HTTP requests of this object in all, retries included; `None` for no limit.
          concurrency: the most requests at once.
          attempts: the most tries of one request.
          backoff: seconds before the second try; doubled for each further one, up to a minute.
          timeout: seconds that one request may take.
          parameters: fields of every request's body, in place of those of a call; one that is `None` is left out.

        Raises:
          ValueError: an argument is out of range, or the key's environment variable is not set.
        """
        if not url.startswith(("http://", "https://")):
            raise InvalidValueError(f"{self._called}'s url is {url!r}; it must start with http:// or https://")
        if not model:
            raise InvalidValueError(f"{self._called}'s model is empty; give the model's name at the endpoint")
        for name, value, least in (("concurrency", concurrency, 1), ("attempts", attempts, 1)):
            if value < least:
                raise InvalidValueError(f"{self._called}'s {name} is {value!r}; it must be at least {least}")
        if max_requests is not None and max_requests < 0:
            raise InvalidValueError(
                f"{self._called}'s max_requests is {max_requests!r}; it must be at least 0, or None for no limit"
            )
        if api_key_env and is_main() and not os.environ.get(api_key_env):
            raise InvalidValueError(
                f"{self._called}'s API key is missing: set the environment variable {api_key_env}, "
                "or api_key_env=None for a server that needs no key"
            )
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._api_key_env = api_key_env
        self._cache = _Cache(None if cache is None else pathlib.Path(cache))
        self._max_requests = max_requests
        self._concurrency = concurrency
        self._attempts = attempts
        self._backoff = backoff
        self._timeout = timeout
        self._parameters = dict(parameters or {})
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock = threading.Lock()
        self.requests = 0

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        num_samples: int | None = None,
        ids: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Answers prompts, each as a user's turn; arguments and result are those of `selfadapt.engine.generate`.

        The `seed` of a request is made from (seed, prompt id, sample index), so that the samples of one prompt are
        different requests. Whether the same seed gives the same text is up to the server.

        Raises:
          BudgetExceeded: `max_requests` are spent and prompts are left.
          EndpointError: the endpoint refused, or failed `attempts` times.
        """
        fields: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature}
        fields |= {"top_p": top_p} if top_p < 1 else {}
        fields |= {"stop": list(stop)} if stop else {}
        each = []
        for id, prompt in zip(prompts if ids is None else ids, prompts, strict=True):
            for sample in range(1 if num_samples is None else num_samples):
                own = {"seed": _seed(seed, id, sample)} if temperature > 0 else {}
                each.append(self._body(prompt, fields | own))
        texts = self._asked(each)
        if num_samples is None:
            return texts
        return [texts[first : first + num_samples] for first in range(0, len(texts), num_samples)]

    def replies(self, prompts: Sequence[str]) -> list[str]:
        """Returns the model's reply to each prompt, with the endpoint's own parameters.

        Raises:
          BudgetExceeded: `max_requests` are spent and prompts are left.
          EndpointError: the endpoint refused, or failed `attempts` times.
        """
        return self._asked([self._body(prompt, {}) for prompt in prompts])

    def _body(self, prompt: str, fields: Mapping[str, Any]) -> str:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self._model, "messages": messages, **fields, **self._parameters}
        return json.dumps({name: value for name, value in body.items() if value is not None}, sort_keys=True)

    def _asked(self, bodies: Sequence[str]) -> list[str]:
        return broadcast(self._replies(bodies) if is_main() else None)

    def _replies(self, bodies: Sequence[str]) -> list[str]:
        self._ask_all([body for body in dict.fromkeys(bodies) if self._cache.get(_key(self._url, body)) is None])
        return [self._cached(body) for body in bodies]

    def _cached(self, body: str) -> str:
        reply = self._cache.get(_key(self._url, body))
        assert reply is not None, "every body was asked about"
        return reply

    def _ask_all(self, bodies: Sequence[str]) -> None:
        if not bodies:
            return
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(min(self._concurrency, len(bodies))) as pool:
            futures = [pool.submit(self._ask, body, stop) for body in bodies]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)  # requests in flight finish and are cached
                raise

    def _ask(self, body: str, stop: threading.Event) -> None:
        for attempt in range(self._attempts):
            try:
                self._spend()
                self._cache.put(_key(self._url, body), self._send(body), model=self._model)
                return
            except _Transient as error:
                delay = max(min(self._backoff * 2**attempt, 60.0) * random.uniform(0.5, 1.0), error.wait)
                if attempt + 1 == self._attempts or stop.wait(delay):
                    raise EndpointError(
                        f"{self._url}: {error}, after {attempt + 1} of {self._attempts} attempts"
                    ) from None

    def _spend(self) -> None:
        with self._lock:
            if self._max_requests is not None and self.requests >= self._max_requests:
                raise BudgetExceeded(
                    f"{self._url}: {self._called}'s budget of {self._max_requests} requests is spent; "
                    "raise max_requests and run again (with a cache, nothing is asked twice)"
                )
            self.requests += 1

    def _send(self, body: str) -> str:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self._api_key_env, "") if self._api_key_env else ""
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, data=body.encode("utf-8"), headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                payload = response.read()
        except urllib.error.HTTPError as error:
            reply = error.read(400).decode("utf-8", "replace").strip()
            reply = reply.replace(key, "[key]") if key else reply  # some servers quote the key they refuse
            if error.code in _RETRIED:
                raise _Transient(f"HTTP {error.code} {reply}", _retry_after(error.headers.get("Retry-After"))) from None
            raise EndpointError(f"{self._url}: HTTP {error.code} {error.reason}: {reply}") from None
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out
            raise _Transient(f"no reply ({error})") from None
        try:
            return str(json.loads(payload)["choices"][0]["message"]["content"] or "")
        except (ValueError, KeyError, IndexError, TypeError):
            reply = payload[:200].decode("utf-8", "replace")
            raise EndpointError(f"{self._url}: the reply is no chat completion: {reply!r}") from None


class _Transient(Exception):
    """A failure that a retry may resolve; `wait` is the delay in seconds that the server asks for."""

    def __init__(self, message: str, wait: float = 0.0):
        super().__init__(message)
        self.wait = wait


def _retry_after(header: str | None) -> float:
    try:
        return min(max(float(header or 0), 0.0), 60.0)
    except ValueError:
        return 0.0  # an HTTP date: the back-off is enough


def _key(url: str, body: str) -> str:
    return hashlib.sha256(f"{url}\n{body}".encode()).hexdigest()


def _seed(seed: int, id: Any, sample: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {id} {sample}".encode()).digest()[:4], "big") >> 1  # 31 bits
