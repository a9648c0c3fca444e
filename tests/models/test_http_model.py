"""Served models: the wire, failures and limits, over an injected transport."""

from __future__ import annotations

import http.server
import json
import pickle
import threading
from email.utils import formatdate
from typing import Any

import pytest
import torch
from http_doubles import X, answer, fixed, httpx, model

from hardpoint.core.access import Access
from hardpoint.core.errors import AccessDenied, BadModelOutput, ConfigError, DataError, EndpointError
from hardpoint.models import HttpModel, Model
from hardpoint.models.http import OpenInference, PlainJson
from hardpoint.models.http.client import Client


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scores_keep_their_order(batch_size: int, concurrency: int) -> None:
    served = model(batch_size=batch_size, concurrency=concurrency)
    assert isinstance(served, Model)
    torch.testing.assert_close(served.scores(X), X[:, :3].double())
    assert torch.equal(served.predict(X), X[:, :3].argmax(1))
    expected = -(-len(X) // batch_size)
    assert served.usage.requests == 2 * expected
    assert served.usage.inputs_sent == 2 * len(X)
    assert served.usage.retries == 0
    assert served.usage.bytes > 0


def test_no_inputs_no_requests() -> None:
    served = model()
    assert served.predict(X[:0]).shape == (0,)
    assert served.scores(X[:0]).shape[0] == 0
    assert served.usage.requests == 0


def test_numbers_cross_the_wire_exactly() -> None:
    x = torch.tensor([[0.1, 1 / 3, 1e-30, 3.4e38]])
    assert torch.equal(model().scores(x).float(), x[:, :3])


def test_open_inference() -> None:
    seen: list[Any] = []

    def serve(request: Any) -> Any:
        seen.append((request.url.path, json.loads(request.content)))
        tensor = seen[-1][1]["inputs"][0]
        n, d = tensor["shape"]
        rows = [tensor["data"][i * d : i * d + 3] for i in range(n)]
        flat = [v for row in rows for v in row]
        other = {"name": "other", "shape": [1], "datatype": "FP32", "data": [0]}
        out = {"name": "logits", "shape": [n, 3], "datatype": "FP32", "data": flat}
        return httpx.Response(200, json={"model_name": "m", "outputs": [other, out]})

    protocol = OpenInference("digits", version="2", input="image", output="logits")
    served = model(serve, url="http://api.test/", protocol=protocol)
    torch.testing.assert_close(served.scores(X), X[:, :3].double())
    path, body = seen[0]
    assert path == "/v2/models/digits/versions/2/infer"
    assert body["inputs"][0]["name"] == "image"
    assert body["inputs"][0]["shape"] == [7, 4]
    assert body["inputs"][0]["datatype"] == "FP32"
    assert body["outputs"] == [{"name": "logits"}]


def v2(**changes: Any) -> dict[str, Any]:
    return {"outputs": [{"name": "y", "datatype": "FP32", "shape": [7, 2], "data": [0.0] * 14} | changes]}


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [],
        {"outputs": None},
        {"outputs": [3]},
        {"outputs": []},
        v2(shape=None),
        v2(shape=[6, 2]),
        v2(shape=[7, 3]),
        v2(shape=[7, "2"]),
        v2(shape=[7, -2]),
        v2(shape=[7, True]),
        v2(data=None),
        v2(data=["a"] * 14),
        v2(data=[[0.0, 1.0], [0.0]] * 4),
    ],
)
def test_open_inference_answers_that_are_refused(payload: Any) -> None:
    with pytest.raises(BadModelOutput):
        fixed(payload, protocol=OpenInference("m")).scores(X)


def test_nested_data_and_labels_of_open_inference() -> None:
    nested = fixed(v2(data=[[1.0, 2.0]] * 7), protocol=OpenInference("m"))
    assert nested.predict(X).tolist() == [1] * 7
    labels = fixed(
        v2(shape=[7], data=[2] * 7), protocol=OpenInference("m", labels=True), access=Access.LABELS
    )
    assert labels.predict(X).tolist() == [2] * 7


@pytest.mark.parametrize(
    "payload",
    [
        b"<html>",
        b"",
        b"[" * 100_000,
        [],
        3,
        {},
        {"result": [1]},
        {"scores": None},
        {"scores": [[0.0, 1.0]] * 6},
        {"scores": [[0.0, 1.0]] * 6 + [[0.0]]},
        {"scores": [["0", "1"]] * 7},
        {"scores": [[True, False]] * 7},
        {"scores": [[None, 1.0]] * 7},
        {"scores": [[[0.0, 1.0]]] * 7},
        {"scores": [[]] * 7},
        {"scores": [[10**400, 1]] * 7},
        b'{"scores": [[NaN, 1.0], [0,1], [0,1], [0,1], [0,1], [0,1], [0,1]]}',
        b'{"scores": [[Infinity, 1.0], [0,1], [0,1], [0,1], [0,1], [0,1], [0,1]]}',
    ],
)
def test_json_answers_that_are_refused(payload: Any) -> None:
    with pytest.raises(BadModelOutput) as caught:
        fixed(payload).scores(X)
    assert caught.value.cure


def test_keys_of_plain_json() -> None:
    def serve(request: Any) -> Any:
        body = json.loads(request.content)
        assert body["task"] == "digits"
        return httpx.Response(200, json={"p": [[0.25, 0.75]] * len(body["x"])})

    served = model(serve, protocol=PlainJson("x", scores=["p"], extra={"task": "digits"}), probabilities=True)
    torch.testing.assert_close(served.scores(X).exp(), torch.tensor([[0.25, 0.75]] * 7).double())


def test_one_score_is_the_logit_of_two_classes() -> None:
    assert fixed({"scores": [1.0, -1.0, 0.5, -2.0, 1.0, 1.0, 1.0]}).predict(X).tolist() == [
        1,
        0,
        1,
        0,
        1,
        1,
        1,
    ]


def test_labels() -> None:
    served = fixed({"labels": [0, 1, 2, 0, 1, 2, 0]}, access=Access.LABELS)
    assert served.predict(X).tolist() == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(AccessDenied):
        served.scores(X)
    with pytest.raises(BadModelOutput, match="no scores"):
        fixed({"labels": [0] * 7}).scores(X)
    names = fixed({"labels": ["dog", "cat"] * 3 + ["cat"]}, access=Access.LABELS, classes=["cat", "dog"])
    assert names.predict(X).tolist() == [1, 0, 1, 0, 1, 0, 0]
    for bad in (["dog"] * 7, [0.5] * 7, [-1] * 7, [0] * 6, [[0]] * 7):
        with pytest.raises(BadModelOutput):
            fixed({"labels": bad}, access=Access.LABELS, classes=["cat"]).predict(X)


def test_classes_must_not_change_between_answers() -> None:
    sizes = iter([2, 3, 2, 2])

    def serve(request: Any) -> Any:
        rows = json.loads(request.content)["inputs"]
        return httpx.Response(200, json={"scores": [[0.0] * next(sizes)] * len(rows)})

    with pytest.raises(BadModelOutput, match="different numbers of classes"):
        model(serve, batch_size=2, concurrency=1).scores(X)
    with pytest.raises(BadModelOutput, match="2 scores for 3 classes"):
        fixed({"scores": [[0.0, 1.0]] * 7}, classes=["a", "b", "c"]).scores(X)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_retried(status: int) -> None:
    left = [2]
    waits: list[float] = []

    def serve(request: Any) -> Any:
        if left[0]:
            left[0] -= 1
            return httpx.Response(status)
        return answer(request)

    served = model(serve, sleep=waits.append)
    torch.testing.assert_close(served.scores(X), X[:, :3].double())
    assert served.usage.retries == 2
    assert served.usage.requests == 3
    assert served.usage.inputs_sent == 21
    assert len(waits) == 2
    assert all(0 <= wait <= 0.5 * 2**i for i, wait in enumerate(waits))


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_lasting_failures_are_not_retried(status: int) -> None:
    served = fixed({"error": "shape mismatch"}, status=status)
    with pytest.raises(EndpointError, match=f"status {status}.*shape mismatch.*0 of 7 inputs") as caught:
        served.scores(X)
    assert served.usage.requests == 1
    assert caught.value.cure


def test_waits_are_those_of_the_seed() -> None:
    def waits(seed: int) -> list[float]:
        kept: list[float] = []
        with pytest.raises(EndpointError, match="failed 4 times"):
            fixed({}, status=503, seed=seed, retries=3, sleep=kept.append).scores(X)
        return kept

    assert waits(1) == waits(1) != waits(2)
    assert len(waits(1)) == 3


@pytest.mark.parametrize("asked", ["7", formatdate(4_000_000_000, usegmt=True), "soon", "-3", "9" * 400])
def test_retry_after(asked: str) -> None:
    waits: list[float] = []
    left = [1]

    def serve(request: Any) -> Any:
        if left[0]:
            left[0] -= 1
            return httpx.Response(429, headers={"retry-after": asked})
        return answer(request)

    served = model(serve, sleep=waits.append)
    if asked.startswith(("9", "Tue", "Mon", "Wed", "Thu", "Fri", "Sat", "Sun")):
        with pytest.raises(EndpointError, match="asks to wait"):
            served.scores(X)
    else:
        served.scores(X)
        assert waits[0] >= (7 if asked == "7" else 0)
        assert waits[0] <= 7


def test_broken_connections_say_how_far_it_got() -> None:
    answered = [0]

    def serve(request: Any) -> Any:
        answered[0] += 1
        if answered[0] > 2:
            raise httpx.ConnectError("connection refused")
        return answer(request)

    served = model(serve, batch_size=2, concurrency=1, retries=1)
    with pytest.raises(EndpointError, match=r"ConnectError.*4 of 7 inputs were answered"):
        served.scores(X)
    assert served.usage.requests == 4


def test_failure_with_many_threads_ends() -> None:
    served = fixed({}, status=500, batch_size=1, concurrency=4, retries=0)
    with pytest.raises(EndpointError, match="0 of 7"):
        served.scores(X)


def test_counts_add_up_over_threads() -> None:
    served = model(batch_size=1, concurrency=8)
    served.scores(X.repeat(20, 1))
    assert served.usage.requests == served.usage.inputs_sent == 140


def test_rate_limit_spaces_requests() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    client = Client(
        "http://api.test",
        rate_limit=2.0,
        transport=httpx.MockTransport(lambda request: httpx.Response(200, json={})),
        clock=lambda: now[0],
        sleep=sleep,
    )
    for _ in range(5):
        client.post(b"{}", 1)
    assert now[0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "ftp://api.test"},
        {"url": "api.test"},
        {"url": "http://"},
        {"batch_size": 0},
        {"concurrency": 0},
        {"retries": -1},
        {"timeout": 0},
        {"rate_limit": 0},
        {"protocol": "grpc"},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        model(**settings)


def test_other_refusals() -> None:
    with pytest.raises(AccessDenied):
        model(access="gradients")
    with pytest.raises(DataError, match="input 2"):
        model().scores(torch.tensor([[0.0], [1.0], [torch.nan]]))
    for name in ("", "a/b", ".."):
        with pytest.raises(ConfigError):
            OpenInference(name)
    with pytest.raises(ConfigError):
        OpenInference("m", datatype="FP8")


def test_survives_pickling() -> None:
    served = HttpModel("http://api.test/predict", headers={"a": "b"}, batch_size=3)
    again = pickle.loads(pickle.dumps(served))
    assert again.describe() == served.describe()
    assert again.batch_size == 3


def test_over_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            rows = json.loads(self.rfile.read(int(self.headers["content-length"])))["inputs"]
            body = json.dumps({"scores": [row[:3] for row in rows]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    except OSError as error:
        pytest.skip(f"loopback is not available: {error}")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        served = HttpModel(f"http://127.0.0.1:{server.server_port}/", batch_size=2)
        torch.testing.assert_close(served.scores(X), X[:, :3].double())
        served.close()
    finally:
        server.shutdown()
        server.server_close()
