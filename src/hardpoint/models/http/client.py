"""Sending requests to a served model: retries, rate, limits, counts. Knows nothing about what is sent."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from hardpoint.core.errors import BadModelOutput, ConfigError, EndpointError, MissingExtra

_RETRY_STATUS = {408, 429, *range(500, 600)}
_REDIRECTS = 3
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0


@dataclass(frozen=True)
class Usage:
    """What an endpoint was asked for: attempts included, so that it matches the provider's bill.

    Args:
        requests: HTTP requests sent.
        inputs_sent: inputs in them; an input that was sent again counts again.
        retries: requests that repeated an earlier one.
        bytes: bytes of request and response bodies.
    """

    requests: int = 0
    inputs_sent: int = 0
    retries: int = 0
    bytes: int = 0


class Client:
    """Posts JSON to one URL, from any number of threads.

    Failures that may pass (408, 429, 5xx, a broken connection) are tried again after a random wait of up to
    twice the last limit ("full jitter"; Brooker, "Exponential Backoff And Jitter", AWS 2015), or after what
    ``Retry-After`` asks. Redirects to another host are never followed. Header values never appear in errors.

    Args:
        url: where to post.
        headers: sent with every request; their values are secrets.
        timeout: seconds for one whole request.
        retries: how often a failed request is repeated.
        rate_limit: requests per second over all threads; None for no limit.
        max_response_bytes: longer responses are refused.
        seed: of the waits.
        transport: an ``httpx`` transport to use instead of the network.
        clock: seconds, monotonic.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        rate_limit: float | None = None,
        max_response_bytes: int = 1 << 26,
        seed: int = 0,
        transport: Any = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self.usage = Usage()
        self._headers = _checked_headers(headers or {})
        self._timeout = timeout
        self._retries = retries
        self._gap = 1.0 / rate_limit if rate_limit else 0.0
        self._cap = max_response_bytes
        self._random = random.Random(seed)
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_slot = 0.0
        try:
            import httpx
        except ImportError:
            raise MissingExtra("http", "assessing served models") from None
        self._httpx: Any = httpx
        self._client = httpx.Client(
            headers={"accept": "application/json", "accept-encoding": "identity", **self._headers},
            timeout=timeout,
            transport=transport,
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def post(self, body: bytes, inputs: int) -> Any:
        """The parsed JSON answer to ``body``, which carries ``inputs`` inputs.

        Raises:
            EndpointError: when the endpoint is down, refuses, redirects elsewhere or keeps failing.
            BadModelOutput: when the answer is too long or no JSON.
        """
        for attempt in range(self._retries + 1):
            self._wait_for_slot()
            self._count(requests=1, inputs_sent=inputs, retries=int(attempt > 0), bytes=len(body))
            wait = self._random_wait(attempt)
            try:
                status, headers, content = self._send(body)
            except self._httpx.TransportError as error:
                failure = self._hide(f"{type(error).__name__}: {error}")
                cure = "check that it is up and that the URL is right"
            else:
                if 200 <= status < 300:
                    return _parse(content)
                failure = f"status {status}{self._excerpt(content)}"
                cure = _cure(status)
                if status not in _RETRY_STATUS:
                    raise EndpointError(f"{self.shown_url} answered {failure}", cure)
                asked = _retry_after(headers.get("retry-after", ""))
                if asked > _LONGEST_WAIT:
                    raise EndpointError(
                        f"{self.shown_url} asks to wait {asked:.0f} s ({failure})", "go on after that time"
                    )
                wait = max(wait, asked)
            if attempt < self._retries:
                self._sleep(wait)
        raise EndpointError(f"{self.shown_url} failed {self._retries + 1} times ({failure})", cure)

    @property
    def shown_url(self) -> str:
        """The URL without user, password and query, which may hold secrets."""
        return public_url(self.url)

    def _send(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        url, started = self.url, self._clock()
        for _ in range(_REDIRECTS + 1):
            with self._client.stream(
                "POST", url, content=body, headers={"content-type": "application/json"}
            ) as response:
                if response.is_redirect:
                    url = self._redirected(url, response)
                    continue
                return response.status_code, response.headers, self._read(response, started)
        raise EndpointError(f"{self.shown_url} redirects in a circle", "give the final URL")

    def _read(self, response: Any, started: float) -> bytes:
        if response.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise BadModelOutput(
                f"{self.shown_url} answers compressed although it was asked not to", "switch compression off"
            )
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            self._count(bytes=len(piece))
            if len(content) > self._cap:
                raise BadModelOutput(
                    f"{self.shown_url} answers more than {self._cap} bytes",
                    "answer scores only, lower batch_size, or raise max_response_bytes",
                )
            if self._clock() - started > self._timeout:  # a server that drips never times out by itself
                raise self._httpx.ReadTimeout(f"no whole answer within {self._timeout} s")
        return bytes(content)

    def _redirected(self, url: str, response: Any) -> str:
        target = str(response.url.join(response.headers.get("location", "")))
        old, new = urlsplit(url), urlsplit(target)
        if (old.scheme, old.hostname, old.port) != (new.scheme, new.hostname, new.port):
            place = f"{new.scheme}://{new.hostname}" + (f":{new.port}" if new.port else "")
            raise EndpointError(
                f"{self.shown_url} redirects to another host ({place})",
                "give that URL yourself if you trust it; headers are never sent on",
            )
        if response.status_code not in (307, 308):
            raise EndpointError(
                f"{self.shown_url} redirects with status {response.status_code}, which drops the request's body",
                "give the final URL",
            )
        return target

    def _wait_for_slot(self) -> None:
        if not self._gap:
            return
        with self._lock:
            now = self._clock()
            slot = max(now, self._next_slot)
            self._next_slot = slot + self._gap
        if slot > now:
            self._sleep(slot - now)

    def _random_wait(self, attempt: int) -> float:
        with self._lock:
            return self._random.uniform(0.0, min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt))

    def _count(self, **more: int) -> None:
        with self._lock:
            self.usage = replace(self.usage, **{k: getattr(self.usage, k) + v for k, v in more.items()})

    def _hide(self, text: str) -> str:
        for value in (*self._headers.values(), urlsplit(self.url).query, urlsplit(self.url).password or ""):
            if value:
                text = text.replace(value, "***")
        return text

    def _excerpt(self, content: bytes) -> str:
        text = self._hide(" ".join(content[:2000].decode("utf-8", "replace").split()))
        text = "".join(c if c.isprintable() else "?" for c in text)[:200]
        return f": {text}" if text else ""


def public_url(url: str) -> str:
    """``url`` without user, password, query and fragment.

    >>> public_url("https://me:secret@host:8000/a?key=1")
    'https://host:8000/a'
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            # the value itself is a secret and is not shown
            raise ConfigError(
                f"header {name!r} has a value that is not printable ASCII text",
                "strip the line break that a file or variable may have added",
            )
    return dict(headers)


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise BadModelOutput(
            "the endpoint's answer is no JSON", "check that the URL is that of the inference endpoint"
        ) from None


def _cure(status: int) -> str:
    if status in (401, 403):
        return "pass the headers it asks for, for example headers={'authorization': …}"
    if status == 404:
        return "check the URL, the protocol and the model's name"
    if status == 413:
        return "lower batch_size"
    if status == 429:
        return "lower rate_limit or concurrency"
    return "check the protocol and the input shape" if status < 500 else "look at the server's log"


def _retry_after(value: str) -> float:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, 10.2.3); 0 if it says nothing usable."""
    value = value.strip()
    if value.isdecimal() and value.isascii():
        return float(value[:12])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
