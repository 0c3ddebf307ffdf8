"""`api:` against a real server on this machine that fails, stalls, reorders and lies."""

import asyncio
import email.utils
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from xbench.encode import cached, full_identity
from xbench.errors import IncompleteError, ModelOutputError, UsageError, XbenchError
from xbench.models import ROLES, Encoder, Options, load
from xbench.models import endpoint as module
from xbench.models.api import PROBE, read_answer
from xbench.models.endpoint import Endpoint
from xbench.readers import read
from xbench.storage import fingerprint
from xbench.store import Store
from xbench.tasks import load_task

DIMENSION = 24
KEY = "sk-very-secret"
TEXTS = [f"text {i}" for i in range(10)]
# Also the source of the `py:` model that the whole run is compared with.
VECTOR = """
import hashlib
import numpy as np


def vector(text):
    digest = hashlib.shake_256(text.encode()).digest(96)
    return (np.frombuffer(digest, "<u4") / 2.0**31 - 1).astype(np.float32)


class Model:
    def encode_queries(self, texts, language):
        return np.stack([vector(text) for text in texts])

    encode_passages = encode_queries
"""
namespace: dict[str, Any] = {}
exec(VECTOR, namespace)
vector: Callable[[str], NDArray[np.float32]] = namespace["vector"]


def good(texts: list[str], **more: object) -> dict[str, Any]:
    data = [{"object": "embedding", "index": i, "embedding": vector(t).tolist()} for i, t in enumerate(texts)]
    return {"object": "list", "model": "served", "data": data, **more}


Reply = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Plays the next scripted reply, else a good one."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Server"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
            self.server.inside += 1
            self.server.most = max(self.server.most, self.server.inside)
            probe = body["input"] == [PROBE]
            reply = self.server.script.pop(0) if self.server.script and not probe else self.server.default
        try:
            reply(self, body)
        except (BrokenPipeError, ConnectionResetError):  # the client left
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.inside -= 1

    def send(self, status: int, body: bytes | object, *, length: int | None = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.script: list[Reply] = []
        self.default: Reply = lambda h, body: h.send(200, good(body["input"]))
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.inside = self.most = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.spelling = f"api:{self.url}#m"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed leaves in the middle of things."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def asked(self) -> list[list[str]]:
        """The texts of each request but those that begin a run."""
        return [body["input"] for _, _, body in self.requests if body["input"] != [PROBE]]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("XBENCH_API_") or n == "OPENAI_API_KEY"]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits take no time, but a clock counts them."""
    now, found = [1000.0], []
    real = module.sleep

    async def sleep(seconds: float) -> None:
        found.append(seconds)
        now[0] += seconds
        await real(0)

    monkeypatch.setattr(module, "sleep", sleep)
    monkeypatch.setattr(module, "clock", lambda: now[0])
    monkeypatch.setattr(module, "jitter", lambda: 1.0)
    return found


def encoder(server: Server, **options: Any) -> Encoder:
    model = load(server.spelling, Options(**options))
    assert isinstance(model, Encoder)
    return model


def encode(model: Encoder, texts: list[str] = TEXTS, role: Any = "queries") -> NDArray[np.float32]:
    return model.encode(model.prepare(texts, role).items, role, "en")


def expected(texts: list[str] = TEXTS) -> NDArray[np.float32]:
    return np.stack([vector(text) for text in texts])


def answer(status: int, body: object = b"no", **headers: str) -> Reply:
    return lambda handler, _: handler.send(status, body, **headers)


def changed(change: Callable[[dict[str, Any]], object]) -> Reply:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        whole = good(body["input"])
        change(whole)
        handler.send(200, whole)

    return reply


def cut(handler: Handler, body: dict[str, Any]) -> None:
    """Promises a whole answer and hangs up after half of it."""
    data = json.dumps(good(body["input"])).encode()
    handler.send(200, data[: len(data) // 2], length=len(data))
    handler.close_connection = True


def cut_unseen(handler: Handler, body: dict[str, Any]) -> None:
    """The same where the end of the connection is the end of the answer."""
    handler.protocol_version = "HTTP/1.0"
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(json.dumps(good(body["input"])).encode()[:-40])
    handler.close_connection = True


def hang_up(handler: Handler, _: dict[str, Any]) -> None:
    handler.close_connection = True


def packed(handler: Handler, body: dict[str, Any]) -> None:
    handler.send(200, gzip.compress(json.dumps(good(body["input"])).encode()), Content_Encoding="gzip")


def shuffled(handler: Handler, body: dict[str, Any]) -> None:
    whole = good(body["input"])
    random.Random(7).shuffle(whole["data"])
    handler.send(200, whole)


def test_what_is_asked(server: Server) -> None:
    model = encoder(server, prompt_query="q: ", prompt_passage="p: ", dim=DIMENSION)
    assert (encode(model) == expected([f"q: {text}" for text in TEXTS])).all()
    assert (encode(model, role="passages") == expected([f"p: {text}" for text in TEXTS])).all()
    for path, headers, body in server.requests:
        assert path == "/v1/embeddings" and "Authorization" not in headers
        assert sorted(body) == ["dimensions", "encoding_format", "input", "model"]
        assert (body["model"], body["encoding_format"], body["dimensions"]) == ("m", "float", DIMENSION)
    prepared = model.prepare(["a" * 40], "queries")
    assert prepared.lengths == [11] and prepared.lost is None


@pytest.mark.parametrize("reply", [shuffled, packed], ids=lambda f: f.__name__)
def test_good_answers(reply: Reply, server: Server) -> None:
    server.default = reply
    assert (encode(encoder(server)) == expected()).all()


def test_inside_another_event_loop(server: Server) -> None:
    async def notebook() -> NDArray[np.float32]:
        return encode(encoder(server))

    assert (asyncio.run(notebook()) == expected()).all()


def test_every_float32_survives() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 4096, np.uint64).astype(np.uint32).view(np.float32)
    rows = bits[np.isfinite(bits)][:3000].reshape(3, 1000)
    # As servers write them: the shortest decimal of the float32, or that of the same float64.
    short = ",".join(f'{{"index":{i},"embedding":[{",".join(map(str, row))}]}}' for i, row in enumerate(rows))
    assert (read_answer(f'{{"data":[{short}]}}'.encode(), 3).vectors == rows).all()
    long = {"data": [{"index": i, "embedding": row.tolist()} for i, row in enumerate(rows)]}
    assert (read_answer(json.dumps(long).encode(), 3).vectors == rows).all()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (answer(500), "status 500: no"),
        (answer(503, {"error": {"message": "loading"}}), "status 503: loading"),
        (answer(429, {"message": "overloaded"}), "status 429: overloaded"),
        *((answer(status), f"status {status}") for status in (408, 409, 425, 502, 504)),
        (cut, "incomplete|without sending complete"),
        (cut_unseen, "was cut"),
        (hang_up, "disconnected"),
    ],
)
def test_passing_failures(
    reply: Reply, words: str, server: Server, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "xbench")
    model = encoder(server)
    server.script = [reply] * 3
    assert (encode(model) == expected()).all()
    assert len(server.asked()) == 4 and waits == [1, 2, 4]  # doubled, as the definition says
    assert len(caplog.messages) == 4 and all(server.url in line for line in caplog.messages)
    assert re.search(words, caplog.messages[-1])
    # One that does not pass: the number of tries is as documented, and the work done is said to be kept.
    server.requests.clear()
    server.default = reply
    with pytest.raises(IncompleteError, match=r"gave up after 8 tries; what is encoded is kept") as caught:
        encode(model)
    assert len(server.asked()) == 8 and waits[3:] == [1, 2, 4, 8, 16, 32, 60]
    assert re.search(words, str(caught.value))


def test_jitter_spreads_the_waits(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "jitter", iter([0.0, 0.5, 1.0]).__next__)
    model = encoder(server)
    server.script = [answer(500)] * 3
    encode(model)
    assert waits == [0.5, 1.5, 4.0]


def test_retry_after(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder(server)
    server.script = [answer(429, Retry_After="7"), answer(503, Retry_After="0")]
    assert (encode(model) == expected()).all()
    assert waits == [7, 2]  # never less than the back-off
    waits.clear()
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    server.script = [answer(503, Retry_After=email.utils.formatdate(1_700_000_030, usegmt=True))]
    encode(model)
    assert waits == [30]
    waits.clear()
    server.script = [answer(429, Retry_After="soon")]
    encode(model)
    assert waits == [1]
    server.script = [answer(429, Retry_After="7200")]
    with pytest.raises(IncompleteError, match="asks to wait 7200 s; gave up after 1 tries"):
        encode(model)


def test_a_wait_that_is_asked_for_holds_all_requests(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XBENCH_API_BATCH", "1")
    monkeypatch.setenv("XBENCH_API_CONCURRENCY", "2")
    monkeypatch.setattr(module, "sleep", asyncio.sleep)  # no clock that jumps: the others run meanwhile
    monkeypatch.setattr(module, "clock", time.monotonic)
    monkeypatch.setattr(module, "DELAY", 0.01)
    begun: list[float] = []
    refused: list[float] = []
    record(begun, monkeypatch)
    read_wait = module._retry_after

    def noted(text: str) -> float | None:
        refused.append(time.monotonic())
        return read_wait(text)

    monkeypatch.setattr(module, "_retry_after", noted)
    model = encoder(server)

    def slowly(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(0.05)
        handler.send(200, good(body["input"]))

    server.script = [answer(429, Retry_After="0.5"), *[slowly] * 10]
    assert (encode(model) == expected()).all()
    (start,) = refused
    assert len(begun) == 12 and not [t for t in begun if start < t < start + 0.5]


def record(begun: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Note when each request begins."""
    once = Endpoint._once

    async def recorded(self: Endpoint, body: dict[str, Any]) -> tuple[bytes, bool]:
        begun.append(module.clock())
        return await once(self, body)

    monkeypatch.setattr(Endpoint, "_once", recorded)


@pytest.mark.parametrize("rpm", ["120", None])
def test_requests_a_minute(rpm: str | None, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XBENCH_API_BATCH", "1")
    if rpm:
        monkeypatch.setenv("XBENCH_API_RPM", rpm)
    begun: list[float] = []
    record(begun, monkeypatch)
    assert (encode(encoder(server)) == expected()).all()
    assert len(begun) == 11
    gaps = np.diff(sorted(begun))
    assert (gaps >= 0.5 - 1e-9).all() if rpm else not gaps.any()


def test_requests_overlap(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XBENCH_API_BATCH", "1")
    monkeypatch.setenv("XBENCH_API_CONCURRENCY", "3")
    together = threading.Barrier(3, timeout=20)
    model = encoder(server)

    def meet(handler: Handler, body: dict[str, Any]) -> None:
        together.wait()  # breaks, and with it the answer, unless three are here at once
        handler.send(200, good(body["input"]))

    server.script, server.most = [meet] * 9, 0
    assert (encode(model, TEXTS[:9]) == expected(TEXTS[:9])).all()
    assert server.most == 3 and len(server.asked()) == 9


def test_a_stalled_server(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XBENCH_API_TIMEOUT", "0.3")
    model = encoder(server)
    free = threading.Event()

    def stall(handler: Handler, body: dict[str, Any]) -> None:
        free.wait(30)

    def dribble(handler: Handler, body: dict[str, Any]) -> None:
        """A byte now and then: each read is quick, the answer never comes."""
        handler.send(200, b"{", length=10_000)
        while not free.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    server.script = [stall, dribble]
    try:
        assert (encode(model) == expected()).all()
    finally:
        free.set()
    assert len(server.asked()) == 3 and waits == [1, 2]


def test_nobody_listens(server: Server, waits: list[float]) -> None:
    with Server() as other:
        url = other.url
    with pytest.raises(IncompleteError, match=r"ConnectError: .*gave up after 3 tries"):
        load(f"api:{url}#m")
    assert waits == [1, 2]


def set_at(path: list[Any], value: object) -> Reply:
    def change(whole: dict[str, Any]) -> None:
        place: Any = whole
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return changed(change)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (set_at(["data", 3, "index"], 4), ["data[4].index is 4", "twice"]),
        (set_at(["data", 3, "index"], 10), ["data[3].index is 10", "0 to 9"]),
        (set_at(["data", 3, "index"], True), ["data[3].index is True"]),
        (set_at(["data", 3, "index"], None), ["data[3].index is None"]),
        (set_at(["data", 3], "x"), ["data[3].index is None"]),
        (changed(lambda whole: whole["data"].pop(6)), ["9 embeddings for 10 texts", "index 6 is missing"]),
        (changed(lambda whole: whole["data"].append(whole["data"][0])), ["data[10].index is 0", "twice"]),
        (set_at(["data"], []), ["0 embeddings for 10 texts"]),
        (set_at(["data"], None), ["no list `data`"]),
        (set_at(["data", 2, "embedding"], []), ["data[2].embedding is []"]),
        (set_at(["data", 2, "embedding"], "AACAPw=="), ["data[2].embedding is 'AACAPw=='"]),
        (set_at(["data", 2, "embedding"], [0.5] * 23), ["index 2 has 23 numbers, that of index 0 24"]),
        (set_at(["data", 2, "embedding", 5], "0.5"), ["data[2].embedding[5] is '0.5', not a number"]),
        (set_at(["data", 2, "embedding", 5], None), ["data[2].embedding[5] is None"]),
        (set_at(["data", 2, "embedding", 5], True), ["data[2].embedding[5] is True"]),
        (set_at(["data", 2, "embedding", 5], float("nan")), ["index 2 has nan at [5]"]),
        (set_at(["data", 2, "embedding", 5], float("-inf")), ["index 2 has -inf at [5]"]),
        (set_at(["data", 2, "embedding", 5], 1e39), ["index 2 has 1e+39 at [5]"]),
        (set_at(["data", 2, "embedding", 5], 10**400), ["beyond the range"]),
        (set_at(["model"], "another"), ["'another'", "'served' before"]),
        (set_at(["model"], None), ["None", "'served' before"]),
        (set_at(["model"], 7), ["model is 7"]),
        (
            lambda h, b: h.send(200, good(b["input"], data=[{"index": i, "embedding": [0.5]} for i in range(10)])),
            ["1 dimensions, but 24 before"],
        ),
        (answer(200, b"<html><body>Sign in</body></html>"), ["not JSON", "Sign in"]),
        (answer(200, b'{"data": "\xff"}'), ["not UTF-8 (byte 10: 0xff)"]),
        (answer(200, b"[" * 100_000), ["not JSON"]),
        (answer(200, {"error": "no such thing"}), ["no list `data`", "no such thing"]),
        (answer(204, b""), ["status 204"]),
        (answer(400, {"error": {"message": "no\nsuch\x1b[2J format"}}), ["status 400: no such\\x1b[2J format"]),
        (answer(400, {"detail": [{"loc": ["input"], "msg": "w" * 500}]}), ["status 400", "www..."]),
        (answer(424, {"error": "inference failed"}), ["424", "inference failed"]),
    ],
)
def test_bad_answers_are_not_asked_for_again(
    reply: Reply, words: list[str], server: Server, waits: list[float]
) -> None:
    model = encoder(server)
    server.default = reply
    with pytest.raises(ModelOutputError) as caught:
        encode(model)
    assert all(word in str(caught.value) for word in [*words, server.url]), caught.value
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()
    assert len(server.asked()) == 1 and not waits


def test_a_huge_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder(server)
    monkeypatch.setattr(module, "BODY", 100_000)
    server.script = [answer(200, b" " * 200_000)]
    with pytest.raises(ModelOutputError, match="an answer of more than 100000 bytes"):
        encode(model)
    server.script = [lambda h, b: h.send(200, gzip.compress(b" " * 200_000), Content_Encoding="gzip")]
    with pytest.raises(ModelOutputError, match="an answer of more than 100000 bytes"):
        encode(model)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (answer(401, {"error": {"message": "who?"}}), "status 401: who?; it was sent no key; set XBENCH_API_KEY"),
        (answer(403), "status 403"),
        (answer(404, {"error": {"message": "model `m` not found"}}), "model `m` not found; check the address"),
        (answer(405), "check the address"),
    ],
)
def test_wrong_settings_are_found_before_all_else(reply: Reply, words: str, server: Server) -> None:
    server.default = reply
    with pytest.raises(UsageError) as caught:
        load(server.spelling)
    assert words in str(caught.value) and server.url in str(caught.value)
    assert len(server.requests) == 1


def test_redirects_are_not_followed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XBENCH_API_KEY", "secret-key")
    with Server() as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for status in (301, 302, 303, 307, 308):
            server.default = answer(status, b"", Location=f"{other.url}/embeddings?token=abc")
            with pytest.raises(UsageError, match="redirects are not followed") as caught:
                load(server.spelling)
            assert f"{other.url}/embeddings;" in str(caught.value) and "abc" not in str(caught.value)
        assert not other.requests
        other.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "refusal",
    [
        answer(413, b"length limit exceeded"),
        answer(413, {"error": "batch size 8 > maximum allowed batch size 3", "error_type": "Validation"}),
        answer(422, {"message": "batch size 8 > maximum allowed batch size 3"}),
        answer(400, {"error": {"message": "Value error, batch size is invalid, it should not be larger than 3"}}),
        answer(400, {"error": {"message": "This model's maximum context length is 512 tokens."}}),
    ],
)
def test_large_requests_are_halved(refusal: Reply, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XBENCH_API_BATCH", "8")
    monkeypatch.setenv("XBENCH_API_CONCURRENCY", "1")

    def at_most_three(handler: Handler, body: dict[str, Any]) -> None:
        if len(body["input"]) > 3:
            refusal(handler, body)
        else:
            handler.send(200, good(body["input"]))

    model = encoder(server)
    server.default = at_most_three
    assert (encode(model) == expected()).all()
    # 10 texts are 8 and 2: the 8 are refused, then 4 of them; then it is known, and the other 4 are not sent as such.
    assert [len(texts) for texts in server.asked()] == [8, 2, 4, 2, 2, 2, 2]
    server.requests.clear()
    assert (encode(model) == expected()).all()
    assert [len(texts) for texts in server.asked()] == [2] * 5
    server.default = refusal
    with pytest.raises(ModelOutputError, match=r"refuses a text of 6 characters, 'text 0'\.\.\.: status 4"):
        encode(model)


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    key = KEY
    monkeypatch.setenv("OPENAI_API_KEY", key)
    model = encoder(server)
    assert server.requests[-1][1]["Authorization"] == f"Bearer {key}"
    monkeypatch.setenv("XBENCH_API_KEY", "other-key")
    assert encoder(server).identity == model.identity
    assert server.requests[-1][1]["Authorization"] == "Bearer other-key"
    monkeypatch.setenv("XBENCH_API_KEY", "")
    encoder(server)
    assert "Authorization" not in server.requests[-1][1]
    monkeypatch.setenv("XBENCH_API_KEY", key)
    # A server may send it back: in an error, in an answer, as the name of the model.
    messages = []
    for reply in (
        answer(401, {"error": {"message": f"Incorrect API key provided: {key}"}}),
        answer(400, f"bad {key}".encode()),
        answer(200, f"<html>{key}".encode()),
        answer(307, b"", Location=f"http://x/{key}"),
        answer(500, f"bad {key}".encode()),
        set_at(["model"], key),
    ):
        server.default = reply
        with pytest.raises(XbenchError) as caught:
            encode(model)
        messages.append(str(caught.value))
    assert "***" in messages[0] and key not in " ".join(messages) + caplog.text
    echoed = encoder(server)
    assert echoed.identity["served"] == "***" and key not in json.dumps(echoed.identity) + echoed.name
    for bad in ("two words", "schlüssel", "a\x07b"):
        monkeypatch.setenv("XBENCH_API_KEY", bad)
        with pytest.raises(UsageError, match="XBENCH_API_KEY holds characters") as caught:
            encoder(server)
        assert bad not in str(caught.value)


def test_no_key_in_the_clear_over_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(self: Endpoint, *_: object) -> list[Any]:
        asked.append(self._url)
        raise IncompleteError("stop")

    monkeypatch.setattr(Endpoint, "ask", ask)
    monkeypatch.setenv("XBENCH_API_KEY", "key")
    for host in ("192.0.2.1", "example.org", "0.0.0.0", "localhost.example.org", "127.0.0.1.example.org"):
        with pytest.raises(UsageError, match="plain http"):
            load(f"api:http://{host}/v1#m")
    assert not asked
    for place in ("https://example.org/v1", "http://127.0.0.1:1/v1", "http://[::1]:1/v1", "http://localhost/v1"):
        with pytest.raises(IncompleteError, match="stop"):
            load(f"api:{place}#m")
    monkeypatch.setenv("XBENCH_API_INSECURE", "1")
    with pytest.raises(IncompleteError, match="stop"):
        load("api:http://192.0.2.1/v1#m")
    assert len(asked) == 5


def test_this_machine_is_asked_without_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as proxy:  # answers nobody
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert (encode(encoder(server)) == expected()).all()
    monkeypatch.setenv("ALL_PROXY", "nonsense://proxy")
    with pytest.raises(UsageError, match="proxy"):
        load("api:https://192.0.2.1/v1#m")


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("api:http://user:pass@127.0.0.1/v1#m", "credentials"),
        ("api:user:pass@127.0.0.1/v1#m", "not an http"),
        ("api:http://127.0.0.1/v1?api-key=pass#m", "may be secret"),
        ("api:http://127.0.0.1/v1", "has no name; write api:URL#MODEL"),
        ("api:http://127.0.0.1/v1#", "has no name"),
        ("api:ftp://127.0.0.1/v1#m", "http"),
        ("api:http://:99999999/v1#pass", "address"),
        ("api:", "unknown model"),
    ],
)
def test_spellings_that_are_refused(spelling: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(spelling)
    assert words in str(caught.value) and "pass" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("BATCH", "0"), ("BATCH", "2.5"), ("CONCURRENCY", "-1"), ("RPM", "nan"), ("RPM", "many"), ("TIMEOUT", "inf")],
)
def test_settings_that_are_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"XBENCH_API_{name}", value)
    with pytest.raises(UsageError, match=f"XBENCH_API_{name} is '{value}'; expected"):
        load("api:http://127.0.0.1:1/v1#m")


def test_options(server: Server) -> None:
    for field, value in (("pooling", "cls"), ("max_length", 5), ("dtype", "bfloat16"), ("device", "cpu")):
        with pytest.raises(UsageError, match=f"takes no --{field.replace('_', '-')}; it takes --normalize, --prompt-"):
            encoder(server, **{field: value})
    assert not server.requests
    with pytest.raises(ModelOutputError, match="24 dimensions, but 8 were asked for; leave out --dim"):
        encoder(server, dim=8)
    found = encode(encoder(server, normalize=True))
    exact = expected().astype(np.float64)
    exact /= np.sqrt((exact**2).sum(1, keepdims=True))
    assert np.abs(found - exact).max() < 1e-7 and np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6


def test_vectors_that_are_not_of_length_1_are_said_to_be(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    encoder(server)
    assert f"vectors of length {np.linalg.norm(vector(PROBE)):.3g}, ranked by dot product" in caplog.text
    caplog.clear()
    encoder(server, normalize=True)
    server.default = lambda h, b: h.send(200, good(b["input"], data=[{"index": 0, "embedding": [0.6, 0.8]}]))
    encoder(server)
    assert not caplog.text


def test_identity(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(spelling: str = server.spelling, **options: Any) -> str:
        model = load(spelling, Options(**options))
        assert isinstance(model, Encoder) and server.url.removesuffix("/v1") in json.dumps(model.identity)
        return fingerprint(full_identity(model, None))

    base = key()
    same = [f"api:{server.url}{end}#m" for end in ("/", "/embeddings", "/embeddings/")] + [server.spelling + "@"]
    assert {key(spelling) for spelling in same} == {base}
    monkeypatch.setenv("XBENCH_API_BATCH", "3")
    monkeypatch.setenv("XBENCH_API_CONCURRENCY", "2")
    monkeypatch.setenv("XBENCH_API_KEY", "key")
    assert key() == base
    others = [
        key(f"api:{server.url}/deeper#m"),
        key(f"api:{server.url}#n"),
        key(f"api:{server.url}#m@2"),
        key(f"api:{server.url}#m@2@"),
        key(f"api:{server.url}#@m"),
        *(key(prompt_query="q"), key(prompt_passage="q"), key(normalize=True), key(dim=DIMENSION)),
    ]
    assert server.requests[-6][2]["model"] == "m@2" and server.requests[-5][2]["model"] == "@m"
    server.default = set_at(["model"], "another")
    others.append(key())
    server.default = lambda h, b: h.send(200, good(b["input"], data=[{"index": 0, "embedding": [1.0]}]))
    others.append(key())
    assert len({base, *others}) == 12


Xbench = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def xbench() -> Iterator[Xbench]:
    """Starts a command that stores every batch at once."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        program = (
            "import sys, xbench.encode, xbench.cli; xbench.encode.SHARD_SECONDS = 0; xbench.cli.main(sys.argv[1:])"
        )
        command = [sys.executable, "-c", program, *arguments]
        env = os.environ | environment
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def done(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def result(folder: Path) -> tuple[dict[str, Any], Any]:
    """The result file and the table of ranks."""
    (path,) = folder.glob("*/mini.json")
    return json.loads(path.read_text()), pq.read_table(path.with_name("mini.ranks.parquet"))


def test_a_whole_run_killed_and_resumed(server: Server, xbench: Xbench, tmp_path: Path, own_cache: Path) -> None:
    (tmp_path / "model.py").write_text(VECTOR)
    run = ("run", server.spelling, "-t", "mini", "--batch-tokens", "2000", "-o", str(tmp_path / "api"))
    reference = xbench("run", f"py:{tmp_path}/model.py:Model", "-t", "mini", "-o", str(tmp_path / "py"))
    reached, free = threading.Event(), threading.Event()

    def stall(handler: Handler, _: dict[str, Any]) -> None:
        reached.set()
        free.wait(60)

    def wait(handler: Handler, _: dict[str, Any]) -> None:
        reached.set()
        handler.send(503, b"", Retry_After="300")

    # Killed when the server has been asked often; then Ctrl-C while it stalls, and while a wait it asks for lasts.
    for script, reply, number in ((20, stall, signal.SIGKILL), (3, stall, signal.SIGINT), (3, wait, signal.SIGINT)):
        server.script = [server.default] * script + [reply] * 9
        reached.clear()
        free.clear()
        stopped = xbench(*run, XBENCH_API_KEY=KEY)
        assert reached.wait(60)
        stopped.send_signal(number)
        code, err = done(stopped)
        free.set()
        assert code == (130 if number == signal.SIGINT else -number) and "Traceback" not in err, err
        assert code < 0 or err.endswith("the same command goes on from there\n")
    cards = {path.parent: json.loads(path.read_text()) for path in own_cache.glob("vectors/*/model.json")}
    ((folder, card),) = ((folder, card) for folder, card in cards.items() if card["kind"] == "api")
    kept = len(Store(folder, card)._places)
    server.script = []
    server.requests.clear()
    code, err = done(xbench(*run, XBENCH_API_KEY=KEY))
    assert code == 0, err
    collection = read(load_task("mini"))
    distinct = {(role, t) for role in ROLES for rows in collection.rows(role).values() for _, t in rows}
    assert 0 < kept < len(distinct) == kept + sum(map(len, server.asked()))
    assert done(reference)[0] == 0
    (ours, ranks), (theirs, their_ranks) = result(tmp_path / "api"), result(tmp_path / "py")
    for part in ("cells", "summary", "summary_by_query", "intervals"):
        assert ours[part] == theirs[part], part
    assert ranks.equals(their_ranks) and ranks.num_rows
    vectors = cached(ours["model"]["identity"], collection, own_cache).vectors
    for role in ROLES:
        for language, rows in collection.rows(role).items():
            assert (vectors[role][language] == expected([text for _, text in rows])).all()
    everything = b"".join(p.read_bytes() for p in [*tmp_path.rglob("*"), *own_cache.rglob("*")] if p.is_file())
    assert KEY.encode() not in everything and KEY not in err
    assert ours["command"] == f"xbench run {server.spelling!r} -t mini --batch-tokens 2000"
    assert ours["model"]["identity"]["served"] == "served"
    # All is there: only the one text that begins a run is asked for.
    server.requests.clear()
    assert done(xbench(*run))[0] == 0
    assert len(server.requests) == 1 and not server.asked()


def test_the_version_that_is_tested() -> None:
    pinned = (Path(__file__).parent.parent / "constraints.txt").read_text()
    assert f"\nhttpx=={httpx.__version__}\n" in pinned
