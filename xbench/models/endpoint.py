"""An HTTP endpoint that embeds texts: many requests at once, tried again when it may help, within its limits."""

import asyncio
import contextlib
import email.utils
import json
import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, TypeVar

from xbench.errors import IncompleteError, ModelOutputError, UsageError
from xbench.progress import log

if TYPE_CHECKING:  # takes a tenth of a second to import
    import httpx

T = TypeVar("T")
# Tests replace these three: what waits, what tells the time, and a number from 0 to 1 that spreads the waits.
sleep = asyncio.sleep
clock = time.monotonic
jitter = secrets.SystemRandom().random
# Requests for the same texts before giving up; the first wait in seconds, doubled each time; the longest of them.
TRIES, DELAY, LONGEST = 8, 1.0, 60.0
# A server that asks for a longer wait than this, in seconds, is not waited for.
PATIENCE = 600.0
# Most bytes of an answer that are read: 32 vectors of 8,192 numbers with 20 digits are 6 million.
BODY = 64 << 20
# Refusals that are not about the request and may be gone at the next try, besides 5xx.
PASSING = (408, 409, 425, 429)
# How servers say that a request is too large where they do not say 413 (seen at vLLM, OpenAI, DashScope, SiliconFlow).
LARGE = re.compile(r"batch size|too (large|long|many)|max\w* |exceed|larger than|at most|fewer than|less than", re.I)


@dataclass(frozen=True)
class Limits:
    """What a server is asked at most; moves no number."""

    batch: int = 32  # texts in a request; the default limit of text-embeddings-inference
    concurrency: int = 4  # requests at once
    rpm: float | None = None  # requests begun in a minute
    timeout: float = 60.0  # seconds for a request and its answer


class _PassingError(Exception):
    """A try failed for a reason that may be gone at the next, after `wait` seconds if the server says so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _LargeError(Exception):
    """The server takes no request of this size."""


class Endpoint:
    """POSTs JSON to one URL and checks each answer; all of it on a thread of its own.

    The thread runs an event loop, so that a stalled server, a wait between tries and Ctrl-C are one matter:
    what waits is cancelled and its connection closed. It is a daemon, and holds up no exit.
    """

    def __init__(self, url: str, key: str | None, limits: Limits, *, local: bool) -> None:
        """Connect to nothing yet.

        Args:
            url: of the endpoint, without credentials.
            key: sent as a bearer token, and shown nowhere.
            limits: what the server is asked at most.
            local: this very machine: no proxy is used, which would get to see the key.

        Raises:
            UsageError: the proxy of the environment cannot be used.
        """
        import httpx

        self._url, self._key, self._limits, self._size = url, key, limits, limits.batch
        headers = {"User-Agent": "xbench"} | ({"Authorization": f"Bearer {key}"} if key else {})
        # Each request is timed as a whole: a server that sends one byte a minute has stalled too.
        many = httpx.Limits(max_connections=limits.concurrency)
        try:
            client = httpx.AsyncClient(headers=headers, timeout=limits.timeout, limits=many, trust_env=not local)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{url}: the proxy in the environment cannot be used: {error}") from error
        self._client, self._loop = client, asyncio.new_event_loop()
        self._next = -1e9  # when the next request may begin
        threading.Thread(target=_serve, args=(self._loop, client), daemon=True).start()
        # Not waited for: this runs wherever the last reference is dropped, even on that thread.
        weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)

    def ask(self, body: dict[str, Any], texts: Sequence[str], read: Callable[[bytes, int], T], tries: int) -> list[T]:
        """What `read` makes of the answers for all texts, in their order: one or more requests.

        Args:
            body: the JSON of each request, without `input`.
            texts: the value of `input`, split among requests; those refused as too large are halved.
            read: gets the bytes of an answer and the number of its texts; what it raises ends all.
            tries: how often a request is made before giving up.

        Raises:
            IncompleteError: the server did not answer.
            ModelOutputError: it refuses the texts, or `read` does.
            UsageError: it does not know the URL, the model or the key.
        """

        async def all_() -> list[T]:
            slots = asyncio.Semaphore(self._limits.concurrency)
            chunks = [texts[low : low + self._size] for low in range(0, len(texts), self._size)]
            tasks = [asyncio.ensure_future(self._chunk(body, chunk, read, tries, slots)) for chunk in chunks]
            try:
                return [answer for answers in await asyncio.gather(*tasks) for answer in answers]
            finally:  # one has failed, or we are cancelled
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        return self._run(all_())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        finally:
            if not future.done():  # Ctrl-C: what waits is cancelled, and would complain of being dropped
                with contextlib.suppress(TimeoutError):
                    asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(2)

    async def _chunk(
        self,
        body: dict[str, Any],
        texts: Sequence[str],
        read: Callable[[bytes, int], T],
        tries: int,
        slots: asyncio.Semaphore,
    ) -> list[T]:
        async with slots:
            if len(texts) <= self._size:  # which may have shrunk meanwhile
                try:
                    return [await self._tried(body, texts, read, tries)]
                except _LargeError as error:
                    if len(texts) == 1:
                        shown = f"a text of {len(texts[0])} characters, {texts[0][:30]!r}..."
                        raise ModelOutputError(f"{self._url} refuses {shown}: {error}") from None
                    self._size = min(self._size, len(texts) // 2)
                    log.info("%s: %d texts at once refused (%s); now %d", self._url, len(texts), error, self._size)
        half = len(texts) // 2
        first = await self._chunk(body, texts[:half], read, tries, slots)
        return first + await self._chunk(body, texts[half:], read, tries, slots)

    async def _tried(
        self, body: dict[str, Any], texts: Sequence[str], read: Callable[[bytes, int], T], tries: int
    ) -> T:
        for number in range(1, tries + 1):
            await self._turn()
            try:
                answer, whole = await self._once(body | {"input": list(texts)})
                return self._read(answer, whole, len(texts), read)
            except _PassingError as error:
                reason = error
            if number == tries or (reason.wait or 0) > PATIENCE:
                break
            wait = min(DELAY * 2 ** (number - 1), LONGEST) * (0.5 + 0.5 * jitter())
            if reason.wait is not None:
                wait = max(wait, reason.wait)
                self._next = max(self._next, clock() + wait)  # who asks for time asks it of all our requests
            log.info("%s: %s; trying again in %.1f s", self._url, reason, wait)
            await sleep(wait)
        asked = f", which asks to wait {reason.wait:.0f} s" if reason.wait else ""
        raise IncompleteError(
            f"{self._url}: {reason}{asked}; gave up after {number} tries; what is encoded is kept, and the same "
            "command goes on from there"
        )

    def _read(self, answer: bytes, whole: bool, texts: int, read: Callable[[bytes, int], T]) -> T:
        if not whole and not answer.rstrip().endswith(b"}"):
            raise _PassingError("the answer was cut")
        return read(answer, texts)

    async def _turn(self) -> None:
        """Wait until a request may begin: they are spread over the minute."""
        while (left := self._next - clock()) > 0:
            await sleep(left)
        if self._limits.rpm:
            self._next = clock() + 60 / self._limits.rpm

    async def _once(self, body: dict[str, Any]) -> tuple[bytes, bool]:
        """The body of one good answer, and whether its end is known to be the end."""
        import httpx

        data = bytearray()
        try:
            async with (
                asyncio.timeout(self._limits.timeout),
                self._client.stream("POST", self._url, json=body) as response,
            ):
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > BODY:
                        raise ModelOutputError(f"{self._url}: an answer of more than {BODY} bytes")
        except TimeoutError:
            raise _PassingError(f"no answer within {self._limits.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise _PassingError(f"{type(error).__name__}: {self.clean(str(error))}") from error
        if response.status_code != 200:
            raise self._refusal(response, bytes(data))
        return bytes(data), bool({"content-length", "transfer-encoding"} & set(response.headers))

    def _refusal(self, response: "httpx.Response", data: bytes) -> Exception:
        status = response.status_code
        said = self.clean(_message(data))
        reason = f"status {status}" + (f": {said}" if said else "")
        if status in PASSING or status >= 500:
            return _PassingError(reason, _retry_after(response.headers.get("Retry-After", "")))
        if status == 413 or (status in (400, 422) and LARGE.search(said)):
            return _LargeError(reason)
        if 300 <= status < 400:
            to = self.clean(response.headers.get("Location", "nowhere").partition("?")[0])
            return UsageError(f"{self._url}: redirected to {to}; redirects are not followed: give the final address")
        if status in (401, 403):
            key = "the key of XBENCH_API_KEY or OPENAI_API_KEY" if self._key else "no key; set XBENCH_API_KEY"
            return UsageError(f"{self._url}: {reason}; it was sent {key}")
        if status in (404, 405, 410):
            return UsageError(f"{self._url}: {reason}; check the address and the name of the model")
        return ModelOutputError(f"{self._url}: {reason}")

    def clean(self, text: str) -> str:
        """Foreign words for a message: one line, trimmed, without the key."""
        text = text.replace(self._key, "***") if self._key else text
        line = " ".join(text.split())
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line[:200]) + "..." * (len(line) > 200)


def _serve(loop: asyncio.AbstractEventLoop, client: "httpx.AsyncClient") -> None:
    """Run the loop until it is stopped; knows nothing of the endpoint, which is then free to go."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(client.aclose())
        loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _message(data: bytes) -> str:
    """What a server says of an error: `error.message` (OpenAI), `message`, `error`, `detail`, else all of it."""
    text = data[:10_000].decode(errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return re.sub(r"(?s)<(script|style)\b.*?</\1>|<[^>]*>", " ", text)
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _retry_after(text: str) -> float | None:
    """Seconds to wait by a Retry-After header, which has seconds or a date (RFC 9110, 10.2.3)."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
