"""Served models that mean ill, or leak: sizes, time, redirects and secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from http_doubles import SECRET, X, answer, fixed, httpx, model

from hardpoint.core.errors import BadModelOutput, ConfigError, EndpointError
from hardpoint.models.http.client import Client


def test_response_size_is_capped() -> None:
    with pytest.raises(BadModelOutput, match="more than 100 bytes"):
        fixed({"scores": [[0.0] * 100] * 7}, max_response_bytes=100).scores(X)


def test_endless_and_compressed_answers_are_cut() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"[" * 1000

    with pytest.raises(BadModelOutput, match="more than"):
        model(lambda request: httpx.Response(200, content=endless()), max_response_bytes=5000).scores(X)
    packed = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"\x1f\x8b"))
    with pytest.raises(BadModelOutput, match="compressed"):
        model(lambda request: packed).scores(X)


def test_dripping_answers_time_out() -> None:
    now = [0.0]

    def drip() -> Iterator[bytes]:
        for _ in range(100):
            now[0] += 1.0
            yield b" "

    client = Client(
        "http://api.test",
        timeout=10.0,
        retries=0,
        transport=httpx.MockTransport(lambda request: httpx.Response(200, content=drip())),
        clock=lambda: now[0],
        sleep=lambda seconds: None,
    )
    with pytest.raises(EndpointError, match="no whole answer within"):
        client.post(b"{}", 1)
    assert now[0] < 20


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_other_hosts_are_not_followed(status: int) -> None:
    hosts: list[str] = []

    def serve(request: Any) -> Any:
        hosts.append(request.url.host)
        return httpx.Response(status, headers={"location": "http://evil.test/predict?steal=1"})

    with pytest.raises(EndpointError, match="another host"):
        model(serve, headers={"authorization": SECRET}).scores(X)
    assert hosts == ["api.test"]


@pytest.mark.parametrize("target", ["https://api.test/predict", "http://api.test:81/predict", "//evil.test/"])
def test_redirects_to_other_ports_or_schemes_are_not_followed(target: str) -> None:
    with pytest.raises(EndpointError, match="another host"):
        model(lambda request: httpx.Response(307, headers={"location": target})).scores(X)


def test_redirects_on_the_same_host() -> None:
    def serve(request: Any) -> Any:
        if request.url.path == "/predict":
            return httpx.Response(308, headers={"location": "/v1/predict"})
        return answer(request)

    torch.testing.assert_close(model(serve).scores(X), X[:, :3].double())
    with pytest.raises(EndpointError, match="circle"):
        model(lambda request: httpx.Response(307, headers={"location": "/predict"})).scores(X)
    with pytest.raises(EndpointError, match="drops the request"):
        model(lambda request: httpx.Response(302, headers={"location": "/other"})).scores(X)


def test_secrets_stay_secret() -> None:
    def echo(request: Any) -> Any:
        return httpx.Response(400, text=f"bad token {request.headers['authorization']} for {request.url}")

    url = "http://me:pa55word@api.test/predict?key=qu3rykey"
    served = model(echo, url=url, headers={"authorization": SECRET})
    with pytest.raises(EndpointError) as caught:
        served.scores(X)

    def breaks(request: Any) -> Any:
        raise httpx.ConnectError(f"could not send {SECRET} to {url}")

    with pytest.raises(EndpointError) as broken:
        model(breaks, url=url, headers={"authorization": SECRET}, retries=0).scores(X)
    shown = [
        str(caught.value),
        str(broken.value),
        repr(served),
        json.dumps(served.describe()),
        str(served._client),
    ]
    for text in shown:
        assert "tr0ub4dor" not in text
        assert "pa55word" not in text
        assert "qu3rykey" not in text
    with pytest.raises(ConfigError) as caught_config:
        model(headers={"authorization": SECRET + "\n"})
    assert "tr0ub4dor" not in str(caught_config.value)
