"""Files are fetched from a real server on this machine that misbehaves in every way we know of."""

import contextlib
import gc
import hashlib
import http.client
import http.server
import io
import itertools
import os
import queue
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request

import pytest

from xbench import sources
from xbench.errors import DataError, IntegrityError, StorageError, UsageError, XbenchError
from xbench.sources import Source, default_cache, fetch, locate, verify

BODY = b"".join(b'{"id": "q%d"}\n' % i for i in range(5000))
OTHER = BODY.replace(b"q", b"Q")
SIZE = len(BODY)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Hit(NamedTuple):
    """One request, as the server saw it."""

    path: str
    range: str | None
    encoding: str | None


class Handler(http.server.BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.hits.append(Hit(self.path, self.headers["Range"], self.headers["Accept-Encoding"]))
            act = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        with contextlib.suppress(ConnectionError):  # the client may hang up, which some tests are about
            act(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep standard error clean."""

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.body(body)

    def body(self, body: bytes) -> None:
        self.wfile.write(body)
        with self.server.lock:
            self.server.sent += len(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them

    def has_sent(self, size: int) -> bool:
        """Whether that many bytes were sent; a thread may count them after the client has them all."""
        deadline = time.monotonic() + 10
        while self.sent != size and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.sent == size

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.hits: list[Hit] = []
        self.sent = 0
        self.script: list[Act] = [serve()]
        self.over = threading.Event()

    @property
    def ranges(self) -> list[str | None]:
        return [hit.range for hit in self.hits]

    def source(self, content: bytes = BODY, name: str = "ar.json") -> Source:
        return Source("toy", name, f"http://127.0.0.1:{self.server_port}/{name}", len(content), sha(content))


Act = Callable[[Handler], None]


def serve(
    content: bytes = BODY,
    *,
    ranges: bool = True,
    cut: int | None = None,
    claim: int | None = None,
    total: str | None = None,
    shift: int = 0,
    kind: str = "application/json",
    length: bool = True,
    gate: threading.Barrier | None = None,
) -> Act:
    """Answer with `content`.

    Args:
        content: the file on the server.
        ranges: whether a Range is honoured.
        cut: close the connection after so many bytes of body.
        claim: the Content-Length to announce.
        total: the total to announce in Content-Range.
        shift: start a range so many bytes off.
        kind: the Content-Type.
        length: announce a Content-Length at all.
        gate: wait here first, until enough requests are in.
    """

    def act(handler: Handler) -> None:
        if gate:
            gate.wait(5)
        asked, body, status = handler.headers["Range"], content, 200
        headers = {"Content-Type": kind}
        if asked and ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                handler.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            start, status = start + shift, 206
            body = content[start:]
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{total or len(content)}"
        if length:
            headers["Content-Length"] = str(len(body) if claim is None else claim)
        handler.answer(status, body[:cut], headers)

    return act


def refuse(status: int, **headers: str) -> Act:
    """Answer with nothing but a status."""
    return lambda handler: handler.answer(status, b"no", {"Content-Length": "2"} | headers)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()
    gc.collect()  # a socket left open warns now, and here


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"DELAY": 0.0, "TIMEOUT": 5.0, "TRIES": 4, "CHUNK": 1000}.items():
        monkeypatch.setattr(sources, name, value)
    monkeypatch.setenv("XBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "data" / "toy" / "ar.json"


def beside(target: Path) -> list[Path]:
    """List what lies in the folder of `target` apart from it."""
    return sorted(path for path in target.parent.glob("*") if path != target) if target.parent.is_dir() else []


def own(target: Path, content: bytes = BODY, pid: int | None = None) -> Path:
    return target.parent / f".{target.name}.{sha(content)[:8]}.{os.getpid() if pid is None else pid}.part"


def leave(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def ended() -> int:
    """Return the pid of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def fails(kind: type[XbenchError], source: Source, target: Path) -> str:
    """Return the one line that `fetch` fails with, once it is sure that nothing appeared under the final name."""
    with pytest.raises(kind) as caught:
        fetch(source, target)
    assert type(caught.value) is kind
    assert not os.path.lexists(target)
    message = str(caught.value)
    assert "\n" not in message
    return message


def fetched(source: Source, target: Path, content: bytes = BODY) -> None:
    fetch(source, target)
    assert target.read_bytes() == content
    assert beside(target) == []


# Success, and what it takes.


@pytest.mark.parametrize("length", [True, False])
def test_a_file_is_fetched_in_one_request(server: Server, target: Path, length: bool) -> None:
    server.script = [serve(length=length)]
    fetched(server.source(), target)
    assert server.hits == [Hit("/ar.json", None, "identity")]


def test_chunked_bodies_are_read(server: Server, target: Path) -> None:
    def act(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        pieces = [BODY[i : i + 7001] for i in range(0, SIZE, 7001)] + [b""]
        coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        handler.answer(200, coded, {"Transfer-Encoding": "chunked"})

    server.script = [act]
    fetched(server.source(), target)


def test_the_file_has_the_permissions_of_the_umask(server: Server, target: Path) -> None:
    fetched(server.source(), target)
    before = os.umask(0)
    os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o666 & ~before


def test_nothing_appears_under_the_final_name_before_the_end(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    watch(monkeypatch, lambda done: seen.append((target.exists(), own(target).exists())))
    fetched(server.source(), target)
    assert len(seen) > SIZE // 1000
    assert set(seen[1:]) == {(False, True)}


def test_the_bytes_are_on_the_disk_before_the_name_is(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def record(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any) -> None:
            calls.append(name)
            real(*args)

        monkeypatch.setattr(os, name, call)

    record("fsync")
    record("replace")
    fetched(server.source(), target)
    assert calls == ["fsync", "replace"]


def watch(monkeypatch: pytest.MonkeyPatch, see: Callable[[int], Any]) -> None:
    """Have `see` called with the bytes done so far, in place of showing progress."""

    @contextlib.contextmanager
    def track(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        assert (what, total, unit) == ("fetching ar.json", SIZE, "bytes")
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            see(done)

        yield advance

    monkeypatch.setattr(sources, "track", track)


@pytest.mark.parametrize("times", [1, 3])
def test_a_cut_body_is_continued_and_no_byte_comes_twice(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    seen: list[int] = []
    watch(monkeypatch, seen.append)
    server.script = [serve(cut=11111)] * times + [serve()]
    fetched(server.source(), target)
    assert server.ranges == [None, *(f"bytes={11111 * (i + 1)}-" for i in range(times))]
    assert {hit.encoding for hit in server.hits} == {"identity"}
    assert server.has_sent(SIZE)
    assert seen == sorted(seen)
    assert seen[-1] == SIZE


def test_a_broken_chunk_keeps_what_came_before_it(server: Server, target: Path) -> None:
    def act(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.answer(200, b"%x\r\n%b" % (SIZE, BODY[:30500]), {"Transfer-Encoding": "chunked"})

    server.script = [act, serve()]
    fetched(server.source(), target)
    assert server.ranges == [None, "bytes=30500-"]


def test_a_stalled_connection_is_given_up_and_continued(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_by_client: queue.Queue[bool] = queue.Queue()

    def stall(handler: Handler) -> None:
        serve(cut=20500)(handler)
        ended_by_client.put(handler.server.over.wait(3))

    def resume(handler: Handler) -> None:
        handler.server.over.set()
        serve()(handler)

    monkeypatch.setattr(sources, "TIMEOUT", 0.1)
    server.script = [stall, resume]
    fetched(server.source(), target)
    assert server.ranges == [None, "bytes=20500-"]
    assert ended_by_client.get(timeout=5)


def test_a_server_without_ranges_sends_all_again(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    watch(monkeypatch, seen.append)
    server.script = [serve(cut=30000), serve(ranges=False)]
    fetched(server.source(), target)
    assert server.ranges == [None, "bytes=30000-"]
    assert server.has_sent(SIZE + 30000)
    assert seen[-1] == SIZE


def test_an_answer_to_another_range_is_not_appended(
    server: Server, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [serve(cut=30000), serve(shift=-13), serve()]
    fetched(server.source(), target)
    assert "SHA-256" not in caplog.text  # it was its Content-Range, not the hash of the whole, that told
    assert server.ranges == [None, "bytes=30000-", None]


def test_a_range_from_the_first_byte_starts_anew(server: Server, target: Path) -> None:
    server.script = [serve(cut=30000), serve(shift=-30000)]
    fetched(server.source(), target)
    assert server.ranges == [None, "bytes=30000-"]


def test_a_part_that_says_nothing_of_itself_is_not_appended(server: Server, target: Path) -> None:
    blank: Act = lambda handler: handler.answer(206, BODY[30000:], {})  # noqa: E731
    server.script = [serve(cut=30000), blank, serve()]
    fetched(server.source(), target)
    assert server.ranges == [None, "bytes=30000-", None]


def test_a_total_left_open_is_accepted(server: Server, target: Path) -> None:
    server.script = [serve(cut=30000), serve(total="*")]
    fetched(server.source(), target)
    assert server.ranges == [None, "bytes=30000-"]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_troubles_of_the_server_are_sat_out(server: Server, target: Path, status: int) -> None:
    server.script = [refuse(status), refuse(status), serve()]
    fetched(server.source(), target)
    assert server.ranges == [None, None, None]


def test_the_delay_doubles(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(sources, "DELAY", 1.5)
    monkeypatch.setattr(time, "sleep", slept.append)
    server.script = [refuse(500)]
    fails(DataError, server.source(), target)
    assert slept == [1.5, 3.0, 6.0]


def test_a_range_not_satisfiable_starts_anew(server: Server, target: Path) -> None:
    leave(own(target), BODY[:40000])
    server.script = [refuse(416), serve()]
    fetched(server.source(), target)
    assert server.ranges == ["bytes=40000-", None]


def test_halves_of_two_versions_are_dropped_and_fetched_whole(server: Server, target: Path) -> None:
    server.script = [serve(OTHER, cut=30000), serve(), serve()]
    fetched(server.source(), target)
    assert server.ranges == [None, "bytes=30000-", None]


def test_a_whole_partial_needs_no_request(server: Server, target: Path) -> None:
    leave(own(target), BODY)
    fetched(server.source(), target)
    assert server.hits == []


@pytest.mark.parametrize("left", [OTHER, BODY + b"more"])
def test_a_partial_that_is_full_of_other_bytes_is_dropped(server: Server, target: Path, left: bytes) -> None:
    leave(own(target), left)
    fetched(server.source(), target)
    assert server.ranges == [None]


def test_redirects_on_this_machine_keep_the_range(server: Server, target: Path) -> None:
    moved = refuse(302, Location="/elsewhere")
    server.script = [moved, serve(cut=30000), moved, serve()]
    fetched(server.source(), target)
    assert server.hits[-1] == Hit("/elsewhere", "bytes=30000-", "identity")


def test_a_file_that_is_compressed_by_nature_is_taken_as_it_is(server: Server, target: Path) -> None:
    def act(handler: Handler) -> None:
        handler.answer(200, BODY, {"Content-Encoding": "gzip", "Content-Length": str(SIZE)})

    server.script = [act]
    fetched(server.source(), target)


# Failure, and that it leaves nothing under the final name.


def test_a_server_that_always_cuts_is_given_up_and_resumed_later(server: Server, target: Path) -> None:
    server.script = [serve(cut=1000)]
    message = fails(DataError, server.source(), target)
    assert server.source().url in message
    assert f"ended after byte 4000 of {SIZE}" in message
    assert f"4000 of {SIZE} bytes are kept" in message
    assert own(target).read_bytes() == BODY[:4000]
    server.script = [serve()]
    fetched(server.source(), target)
    assert server.ranges == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-", "bytes=4000-"]
    assert server.has_sent(SIZE)


@pytest.mark.parametrize("status", [500, 429])
def test_tries_are_limited(server: Server, target: Path, status: int) -> None:
    server.script = [refuse(status)]
    message = fails(DataError, server.source(), target)
    assert f"HTTP Error {status}" in message
    assert "after 4 tries" in message
    assert len(server.hits) == 4
    assert beside(target) == []


@pytest.mark.parametrize("status", [400, 403, 404, 410, 416])
def test_a_refusal_is_final(server: Server, target: Path, status: int) -> None:
    server.script = [refuse(status)]
    message = fails(DataError, server.source(), target)
    assert f"HTTP Error {status}" in message
    assert len(server.hits) == 1
    assert beside(target) == []


def test_no_server(target: Path) -> None:
    gone = Server()
    gone.server_close()
    message = fails(DataError, gone.source(), target)
    assert "refused" in message
    assert gone.source().url in message


@pytest.mark.parametrize("claim", [SIZE + 1, SIZE - 1, 0, 10**15])
def test_a_wrong_content_length_is_final(server: Server, target: Path, claim: int) -> None:
    server.script = [serve(claim=claim)]
    message = fails(IntegrityError, server.source(), target)
    assert f"found {claim} bytes announced" in message
    assert f"expected {SIZE} bytes" in message
    assert len(server.hits) == 1
    assert beside(target) == []


@pytest.mark.parametrize("total", [SIZE + 1, SIZE - 1])
def test_a_wrong_total_of_a_range_is_final_and_costs_no_byte(server: Server, target: Path, total: int) -> None:
    leave(own(target), BODY[:30000])
    server.script = [serve(total=str(total))]
    message = fails(IntegrityError, server.source(), target)
    assert f"found {total} bytes announced" in message
    assert f"expected {SIZE} bytes" in message
    assert len(server.hits) == 1
    assert own(target).read_bytes() == BODY[:30000]


@pytest.mark.parametrize("extra", [b"\n", b"x" * 200_000_000])
def test_more_bytes_than_expected_are_not_taken(server: Server, target: Path, extra: bytes) -> None:
    def act(handler: Handler) -> None:
        handler.answer(200, BODY, {})
        view = memoryview(extra)
        for start in range(0, len(extra), 1 << 16):
            handler.body(view[start : start + (1 << 16)])  # type: ignore[arg-type]

    server.script = [act]
    message = fails(IntegrityError, server.source(), target)
    assert f"found more than {SIZE} bytes; expected {SIZE} bytes" in message
    assert len(server.hits) == 1
    assert server.sent < 50_000_000
    assert beside(target) == []


def test_wrong_bytes_of_the_right_size_are_final(server: Server, target: Path) -> None:
    server.script = [serve(OTHER)]
    message = fails(IntegrityError, server.source(), target)
    assert sha(OTHER) in message
    assert sha(BODY) in message
    assert len(server.hits) == 1
    assert beside(target) == []


def test_wrong_bytes_after_a_resume_are_fetched_once_more_and_not_twice(server: Server, target: Path) -> None:
    leave(own(target), BODY[:30000])
    server.script = [serve(OTHER)]
    message = fails(IntegrityError, server.source(), target)
    assert sha(OTHER) in message
    assert sha(BODY) in message
    assert server.ranges == ["bytes=30000-", None]
    assert beside(target) == []


@pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8"])
def test_a_web_page_is_not_data(server: Server, target: Path, kind: str) -> None:
    server.script = [serve(kind=kind)]
    message = fails(IntegrityError, server.source(), target)
    assert "web page (text/html)" in message
    assert f"expected {SIZE} bytes" in message
    assert len(server.hits) == 1
    assert beside(target) == []


@pytest.mark.parametrize("headers", [{"Content-Length": "900"}, {}])
def test_a_body_compressed_against_our_wish_is_refused(server: Server, target: Path, headers: dict[str, str]) -> None:
    server.script = [lambda handler: handler.answer(200, b"\x1f\x8b" * 450, {"Content-Encoding": "gzip"} | headers)]
    message = fails(IntegrityError, server.source(), target)
    assert "Content-Encoding gzip" in message
    assert len(server.hits) == 1


@pytest.mark.parametrize("status", [203, 204])
def test_another_success_than_200_is_refused(server: Server, target: Path, status: int) -> None:
    server.script = [lambda handler: handler.answer(status, b"", {})]
    assert f"found status {status}" in fails(IntegrityError, server.source(), target)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/ar.json", "http://xbench.invalid/ar.json"])
def test_a_redirect_to_what_is_not_fetched_is_refused(server: Server, target: Path, to: str) -> None:
    server.script = [refuse(302, Location=to)]
    message = fails(DataError, server.source(), target)
    assert to in message
    assert "not allowed" in message
    assert len(server.hits) == 1


def test_a_redirect_loop_ends(server: Server, target: Path) -> None:
    server.script = [refuse(302, Location="/ar.json")]
    assert "infinite loop" in fails(DataError, server.source(), target)
    assert len(server.hits) < 12


def test_a_redirect_to_no_address_at_all(server: Server, target: Path) -> None:
    server.script = [refuse(302, Location="https://[")]
    assert "Invalid IPv6 URL" in fails(DataError, server.source(), target)


def test_https_never_becomes_http() -> None:
    request, headers = Request("https://example.org/ar.json"), http.client.HTTPMessage()
    handler = sources._Redirects()
    with pytest.raises(urllib.error.HTTPError, match="not allowed") as caught:
        handler.redirect_request(request, io.BytesIO(), 302, "Found", headers, "http://127.0.0.1/ar.json")
    caught.value.close()
    again = handler.redirect_request(request, io.BytesIO(), 302, "Found", headers, "https://example.org/b")
    assert again is not None
    assert again.full_url == "https://example.org/b"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "data:,a",
        "http://example.org/a",
        "http://10.0.0.1/a",
        "http://127.0.0.1@example.org/a",
        "http:///a",
        "https:///a",
        "https://[/a",
        "https://example.org/a b",
        "/etc/passwd",
        "",
    ],
)
def test_only_https_is_fetched(target: Path, url: str) -> None:
    message = fails(UsageError, Source("toy", "ar.json", url, SIZE, sha(BODY)), target)
    assert "https://" in message
    assert "toy/ar.json" in message
    assert not target.parent.exists()


@pytest.mark.parametrize(
    "url", ["https://example.org/a", "http://localhost/a", "http://127.0.0.9:1/a", "http://[::1]/a"]
)
def test_these_are_fetched(url: str) -> None:
    assert sources._fetchable(url)


def test_a_folder_that_is_a_file_is_a_storage_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for target in (tmp_path / "file" / "ar.json", tmp_path / "file" / "deep" / "ar.json"):
        message = fails(StorageError, server.source(), target)
        assert str(tmp_path / "file") in message
    assert server.hits == []


def test_a_full_disk_is_a_storage_error_and_keeps_the_partial(server: Server, target: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30000, hard))
    try:
        message = fails(StorageError, server.source(), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in message
    assert own(target).read_bytes() == BODY[:30000]
    fetched(server.source(), target)
    assert server.ranges == [None, "bytes=30000-"]


def test_a_folder_in_the_place_of_the_file_is_a_storage_error(server: Server, target: Path) -> None:
    target.mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot write"):
        fetch(server.source(), target)
    assert target.is_dir()


# Interruption, and other processes.


def test_an_interrupted_download_is_continued(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(done: int) -> None:
        if done >= 30000:
            raise KeyboardInterrupt

    watch(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.source(), target)
    assert not target.exists()
    kept = own(target).stat().st_size
    assert 30000 <= kept < SIZE
    watch(monkeypatch, lambda done: None)
    fetched(server.source(), target)
    assert server.ranges == [None, f"bytes={kept}-"]


CHILD = """
import sys
from pathlib import Path
from xbench import sources
sources.DELAY, sources.TIMEOUT, sources.CHUNK = 0.0, 5.0, 1000
sources.fetch(sources.Source("toy", "ar.json", sys.argv[1], int(sys.argv[2]), sys.argv[3]), Path(sys.argv[4]))
"""


def start(source: Source, target: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-W", "error", "-c", CHILD, source.url, str(source.size), source.sha256, str(target)]
    return subprocess.Popen(command, cwd=Path(sources.__file__).parents[1], stderr=subprocess.PIPE)


def test_a_killed_download_is_continued_by_another_process(server: Server, target: Path) -> None:
    arrived = threading.Event()

    def half(handler: Handler) -> None:
        serve(cut=30000)(handler)
        arrived.set()
        handler.server.over.wait(5)

    server.script = [half, serve()]
    child = start(server.source(), target)
    assert arrived.wait(5)
    part = own(target, pid=child.pid)
    for _ in itertools.takewhile(lambda _: not part.exists() or part.stat().st_size < 20000, range(500)):
        time.sleep(0.01)
    child.kill()
    child.communicate()
    server.over.set()
    kept = part.stat().st_size
    assert 20000 <= kept <= 30000
    assert not target.exists()
    fetched(server.source(), target)
    assert server.ranges == [None, f"bytes={kept}-"]


def test_two_processes_at_once_share_one_orphan_and_both_succeed(server: Server, target: Path) -> None:
    leave(own(target, pid=ended()), BODY[:30000])
    # Neither gets its answer before both have asked, so that they truly run at once.
    server.script = [serve(gate=threading.Barrier(2))]
    children = [start(server.source(), target) for _ in range(2)]
    assert [(child.communicate()[1], child.returncode) for child in children] == [(b"", 0)] * 2
    assert target.read_bytes() == BODY
    assert beside(target) == []
    assert sorted(server.ranges, key=str) == [None, "bytes=30000-"]


def test_two_threads_with_one_pid_do_not_spoil_each_other(server: Server, target: Path) -> None:
    server.script = [serve(gate=threading.Barrier(2))]
    failures: list[BaseException] = []

    def work() -> None:
        try:
            fetch(server.source(), target)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert target.read_bytes() == BODY
    assert beside(target) == []


def test_the_largest_orphan_is_claimed(server: Server, target: Path) -> None:
    small = leave(own(target, pid=ended()), BODY[:100])
    leave(own(target, pid=ended()), BODY[:40000])
    leave(own(target), BODY[:200])
    fetch(server.source(), target)
    assert target.read_bytes() == BODY
    assert server.ranges == ["bytes=40000-"]
    assert beside(target) == [small]


def test_partials_of_the_living_and_of_other_files_are_left_alone(server: Server, target: Path) -> None:
    others = sorted(
        [
            leave(own(target, pid=os.getppid()), BODY[:40000]),
            leave(own(target, OTHER, pid=ended()), BODY[:40000]),
            leave(own(target.with_name("en.json"), pid=ended()), BODY[:40000]),
        ]
    )
    fetch(server.source(), target)
    assert target.read_bytes() == BODY
    assert server.ranges == [None]
    assert beside(target) == others
    assert {path.stat().st_size for path in others} == {40000}


def test_an_orphan_that_another_claims_first_is_no_failure(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = leave(own(target, pid=ended()), BODY[:40000])
    left = leave(own(target, pid=ended()), BODY[:20000])
    replace = os.replace

    def slow(path: Path, to: Path) -> None:
        gone.unlink(missing_ok=True)
        replace(path, to)

    monkeypatch.setattr(os, "replace", slow)
    fetched(server.source(), target)
    assert server.ranges == ["bytes=20000-"]
    assert not left.exists()


def test_a_process_of_another_user_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        assert number == 0
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert sources._alive(1)


# verify, locate and default_cache.


def test_verify_accepts_the_right_file(server: Server, target: Path) -> None:
    verify(leave(target, BODY), server.source())


@pytest.mark.parametrize("content", [OTHER, BODY[:-1], BODY + b"\n", b""])
def test_verify_shows_both_hashes_and_sizes(server: Server, target: Path, content: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        verify(leave(target, content), server.source())
    message = str(caught.value)
    assert caught.value.exit_code == 7
    assert "\n" not in message
    for part in (str(target), sha(content), sha(BODY), f"found {len(content)} bytes", f"expected {SIZE} bytes"):
        assert part in message
    assert "xbench data fetch toy" in message


def test_verify_says_what_is_missing(server: Server, target: Path, tmp_path: Path) -> None:
    for path in (target, tmp_path):
        with pytest.raises(DataError, match="missing or not a file") as caught:
            verify(path, server.source())
        assert str(path) in str(caught.value)
        assert "xbench data fetch toy" in str(caught.value)


def test_locate_fetches_once_and_verifies_always(server: Server, target: Path) -> None:
    assert locate(server.source(), None) == target
    assert locate(server.source(), None, offline=True) == target
    assert len(server.hits) == 1
    target.write_bytes(OTHER)
    with pytest.raises(IntegrityError, match=sha(OTHER)):
        locate(server.source(), None)
    assert target.read_bytes() == OTHER
    assert len(server.hits) == 1


def test_locate_offline_fetches_nothing(server: Server, target: Path) -> None:
    with pytest.raises(DataError, match="xbench data fetch toy.*--data") as caught:
        locate(server.source(), None, offline=True)
    assert str(target) in str(caught.value)
    assert server.hits == []
    assert not target.parent.exists()


def test_locate_never_fetches_into_a_folder_of_the_user(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "mine" / "toy" / "ar.json"
    with pytest.raises(DataError) as caught:
        locate(server.source(), tmp_path / "mine")
    for part in (str(path), f"{SIZE} bytes", sha(BODY)):
        assert part in str(caught.value)
    assert not path.parent.exists()
    leave(path, BODY[:-1])
    with pytest.raises(IntegrityError, match=sha(BODY[:-1])):
        locate(server.source(), tmp_path / "mine")
    leave(path, BODY)
    assert locate(server.source(), tmp_path / "mine") == path
    assert server.hits == []


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XBENCH_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ("linux", {"XBENCH_CACHE": "~/own"}, "/home/me/own"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/xbench"),
        ("linux", {"XDG_CACHE_HOME": ""}, "/home/me/.cache/xbench"),
        ("linux", {}, "/home/me/.cache/xbench"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/home/me/Library/Caches/xbench"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/xbench"),
        ("win32", {}, "/home/me/AppData/Local/xbench"),
    ],
)
def test_default_cache(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("XBENCH_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert default_cache() == Path(expected)
