"""A model behind a URL."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.errors import AccessDenied, BadModelOutput, ConfigError, DataError, EndpointError
from hardpoint.models.http.client import Client, Usage, public_url
from hardpoint.models.http.wire import Answer, PlainJson, WireProtocol
from hardpoint.models.torch import class_scores


@dataclass(frozen=True, eq=False, repr=False)
class HttpModel:
    """A served model: inputs go out in batches, scores or labels come back.

    Args:
        url: of the endpoint (plain JSON) or of the server (``OpenInference``).
        protocol: ``"json"``, ``PlainJson`` with other key names, or ``OpenInference`` with the model's name.
        access: ``scores``, or ``labels`` for endpoints that answer labels or to ignore their scores.
        input_range: ``(low, high)`` of valid inputs.
        classes: the class names in order, for endpoints that answer names.
        probabilities: whether the scores are probabilities; their logarithm is used then.
        headers: sent with every request; their values are kept out of errors, reports and ``repr``.
        batch_size: inputs per request.
        concurrency: requests at a time.
        rate_limit: requests per second; None for no limit.
        timeout: seconds for one request.
        retries: how often a failed request is repeated.
        max_response_bytes: longer responses are refused.
        seed: of the random waits between retries.
        name: shown in reports; the URL by default.
        transport: an ``httpx`` transport to use instead of the network.
        sleep: waits for seconds; replaced in tests.

    Raises:
        ConfigError: for settings that make no sense.
        MissingExtra: without the ``http`` extra.
    """

    url: str
    protocol: WireProtocol | Literal["json"] = "json"
    access: Access = Access.SCORES
    input_range: Box | tuple[float | Tensor, float | Tensor] = (0.0, 1.0)
    classes: Sequence[str] | None = None
    probabilities: bool = False
    headers: Mapping[str, str] | None = None
    batch_size: int = 32
    concurrency: int = 4
    rate_limit: float | None = None
    timeout: float = 30.0
    retries: int = 4
    max_response_bytes: int = 1 << 26
    seed: int = 0
    name: str | None = None
    transport: Any = None
    sleep: Callable[[float], None] = time.sleep
    box: Box = field(init=False)
    _wire: WireProtocol = field(init=False)
    _client: Client = field(init=False)

    def __post_init__(self) -> None:
        wire = PlainJson() if isinstance(self.protocol, str) and self.protocol == "json" else self.protocol
        if not isinstance(wire, WireProtocol):
            raise ConfigError(
                f"protocol {wire!r} is unknown", 'pass "json", PlainJson(…), or OpenInference(model="…")'
            )
        object.__setattr__(self, "_wire", wire)
        object.__setattr__(self, "access", Access.parse(self.access))
        object.__setattr__(self, "box", Box.of(self.input_range))
        self._check()
        client = Client(
            self.url.rstrip("/") + wire.path if wire.path else self.url,
            headers=self.headers,
            timeout=self.timeout,
            retries=self.retries,
            rate_limit=self.rate_limit,
            max_response_bytes=self.max_response_bytes,
            seed=self.seed,
            transport=self.transport,
            sleep=self.sleep,
        )
        object.__setattr__(self, "_client", client)

    def _check(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"{public_url(self.url)!r} is no URL of an endpoint", "give http://… or https://…"
            )
        if self.access > Access.SCORES:
            raise AccessDenied("a served model shows no gradients", 'pass access="scores" or "labels"')
        for setting, least in (
            ("batch_size", 1),
            ("concurrency", 1),
            ("retries", 0),
            ("max_response_bytes", 1),
        ):
            if getattr(self, setting) < least:
                raise ConfigError(f"{setting} is {getattr(self, setting)}", f"give at least {least}")
        if not self.timeout > 0 or (self.rate_limit is not None and not self.rate_limit > 0):
            raise ConfigError(
                "timeout and rate_limit must be positive", "give seconds, and requests per second"
            )

    def __repr__(self) -> str:
        return f"HttpModel({public_url(self.url)!r}, access={self.access.word})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Connections cannot be copied to another process; they are opened again there, with new counts."""
        names = [name for name, entry in self.__dataclass_fields__.items() if entry.init]
        return _restore, ({name: getattr(self, name) for name in names},)

    @property
    def usage(self) -> Usage:
        """What the endpoint was asked for so far: requests, inputs sent, retries, bytes."""
        return self._client.usage

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def scores(self, x: Tensor) -> Tensor:
        if self.access < Access.SCORES:
            raise AccessDenied("this endpoint offers labels only", 'use a threat with access="labels"')
        return self._joined_scores(self._ask(x)).to(x.device)

    def predict(self, x: Tensor) -> Tensor:
        answers = self._ask(x)
        if not answers:
            return torch.zeros(0, dtype=torch.int64, device=x.device)
        if all(answer.scores is not None for answer in answers):
            return self._joined_scores(answers).argmax(1).to(x.device)
        labels = [self._label_numbers(answer.labels) for answer in answers if answer.labels is not None]
        if len(labels) != len(answers):
            raise BadModelOutput("the endpoint answered now scores, now labels", "let it answer one of them")
        return torch.from_numpy(np.concatenate(labels)).to(x.device)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "http",
            "name": self.name or public_url(self.url),
            "sha256": None,  # what runs behind a URL cannot be known
            "parameters": None,
            "url": public_url(self.url),
            "protocol": type(self._wire).__name__,
            "access": self.access.word,
            "headers": sorted(self.headers or {}),
            "input_range": self.box.describe(),
        }

    def _ask(self, x: Tensor) -> list[Answer]:
        """The answers to all batches, in order."""
        rows = x.detach().cpu().numpy()
        finite = np.isfinite(rows.reshape(len(rows), -1)).all(1) if len(rows) else np.ones(0, bool)
        if not finite.all():
            raise DataError(
                f"input {int(np.argmin(finite))} holds NaN or infinity, which JSON cannot carry",
                "drop or impute it",
            )
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        if len(batches) <= 1 or self.concurrency == 1:
            return self._collect(iter(batches), map(self._ask_batch, batches), len(rows))
        pool = ThreadPoolExecutor(min(self.concurrency, len(batches)), thread_name_prefix="hardpoint-http")
        try:
            return self._collect(iter(batches), pool.map(self._ask_batch, batches), len(rows))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _collect(self, batches: Any, answers: Any, total: int) -> list[Answer]:
        collected: list[Answer] = []
        done = 0
        try:
            for batch, answer in zip(batches, answers, strict=True):
                collected.append(answer)
                done += len(batch)
        except EndpointError as error:
            raise EndpointError(f"{error.what}; {done} of {total} inputs were answered", error.cure) from None
        return collected

    def _ask_batch(self, rows: NDArray[Any]) -> Answer:
        return self._wire.decode(self._client.post(self._wire.encode(rows), len(rows)), len(rows))

    def _joined_scores(self, answers: list[Answer]) -> Tensor:
        if not answers:
            return torch.zeros(0, max(len(self.classes or ()), 2), dtype=torch.float64)
        parts = [answer.scores for answer in answers if answer.scores is not None]
        if len(parts) != len(answers):
            raise BadModelOutput("the endpoint answered labels, no scores", 'pass access="labels"')
        if len({part.shape[1:] for part in parts}) > 1:
            raise BadModelOutput(
                "the endpoint answered different numbers of classes", "look at the server: its model changed"
            )
        scores = class_scores(torch.from_numpy(np.concatenate(parts)), self.probabilities)
        if self.classes is not None and scores.shape[1] != len(self.classes):
            raise BadModelOutput(
                f"the endpoint answered {scores.shape[1]} scores for {len(self.classes)} classes",
                "give all class names in the endpoint's order",
            )
        return scores

    def _label_numbers(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        if labels.dtype != object:
            if (labels < 0).any():
                raise BadModelOutput("the endpoint answered a negative label", "answer class numbers from 0")
            return labels
        place = {name: i for i, name in enumerate(self.classes or ())}
        for name in labels:
            if name not in place:
                raise BadModelOutput(
                    f"the endpoint answered the label {str(name)[:40]!r}, which is not among the classes",
                    "pass classes=[…], the names in order",
                )
        return np.array([place[name] for name in labels], dtype=np.int64)


def _restore(settings: dict[str, Any]) -> HttpModel:
    return HttpModel(**settings)
