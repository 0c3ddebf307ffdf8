"""`api:URL#MODEL[@REVISION]`: an OpenAI-compatible embeddings endpoint, as text-embeddings-inference and vLLM serve.

The protocol is that of `POST /v1/embeddings` (platform.openai.com/docs/api-reference/embeddings). Numbers are asked for
as JSON floats, which every server gives; the shortest decimal of a float32 reads back as the same float32.
"""

import ipaddress
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import ModelOutputError, UsageError
from xbench.models import Options, Prepared, Role
from xbench.models.endpoint import TRIES, Endpoint, Limits
from xbench.progress import log

if TYPE_CHECKING:
    import httpx

# Raised when the adapter changes in a way that can move a vector.
VERSION = 1
PROBE = "xbench"
PROBE_TRIES = 3
SPELLING = "api:URL#MODEL, such as api:http://127.0.0.1:8080/v1#BAAI/bge-m3"


class Answer(NamedTuple):
    """The vectors of one answer, float32 (n, d), in the order of its texts, and the model that the server names."""

    vectors: NDArray[np.float32]
    served: str | None


class ApiEncoder:
    """An `Encoder` over an endpoint; vectors are as served, or scaled to length 1 with `normalize`.

    One text is sent before all else. Its answer says whether address, model and key are right, before anything
    is read or encoded, and gives the dimension and the name that the server has for the model: both are part of the
    identity, so another model behind the same address and name misses the cache if the server says its true name.
    """

    told_language = False
    batch_tokens = 1 << 14  # about ten requests: few enough to lose in a kill, enough to be made at once

    def __init__(self, spelling: str, options: Options) -> None:
        """Check the spelling and the settings, and ask for one vector.

        Raises:
            UsageError: the spelling, a setting, the address, the name of the model or the key is wrong.
            IncompleteError: the server does not answer.
            ModelOutputError: its answer is not an embedding.
        """
        place, _, label = spelling.removeprefix("api:").partition("#")
        model, at, revision = label.rpartition("@")
        if not (at and model):  # a name may begin with @
            model, revision = label, ""
        url = _url(place)
        if not model:
            raise UsageError(f"model {'api:' + str(url)!r} has no name; write {SPELLING}")
        local, key = _is_local(url.host), _key()
        if key and url.scheme != "https" and not local and os.environ.get("XBENCH_API_INSECURE") != "1":
            raise UsageError(
                f"{url}: a key is not sent over plain http to another machine; use https, set XBENCH_API_KEY to "
                "nothing to send none, or XBENCH_API_INSECURE=1 to send it all the same"
            )
        self.name, self._url, self._dim = spelling, str(url), options.dim
        self._prompts = {"queries": options.prompt_query or "", "passages": options.prompt_passage or ""}
        self._body: dict[str, object] = {"model": model, "encoding_format": "float"}
        if options.dim:
            self._body["dimensions"] = options.dim
        self._endpoint = Endpoint(self._url, key, _limits(), local=local)
        self._expected: Answer | None = None
        self._expected = self._ask([PROBE], PROBE_TRIES)[0]
        length = float(np.linalg.norm(self._expected.vectors[0].astype(np.float64)))
        if not options.normalize and abs(length - 1) > 1e-3:
            log.warning("%s: vectors of length %.3g, ranked by dot product; --normalize: by cosine", self._url, length)
        self.identity: dict[str, object] = {
            "kind": "api",
            "version": VERSION,
            "url": self._url,
            "model": model,
            "revision": revision or None,
            "served": self._expected.served,
            "dimension": self._expected.vectors.shape[1],
            "dim": options.dim,
            "prompts": dict(self._prompts),
            "normalize": bool(options.normalize),
        }

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared:
        """The texts after their prompt, with a rough number of tokens: a quarter of the bytes."""
        items = [self._prompts[role] + text for text in texts]
        return Prepared(items, [len(item.encode()) // 4 + 1 for item in items])

    def encode(self, items: Sequence[str], role: Role, language: str) -> NDArray[np.float32]:
        """float32 (n, d): one or more requests, made at the same time."""
        vectors = np.concatenate([answer.vectors for answer in self._ask(items, TRIES)])
        if self.identity["normalize"]:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _ask(self, texts: Sequence[str], tries: int) -> list[Answer]:
        return self._endpoint.ask(self._body, texts, self._read, tries)

    def _read(self, data: bytes, texts: int) -> Answer:
        """An answer, which must be of the same model and dimension as the first."""
        try:
            found = read_answer(data, texts)
        except ValueError as error:
            raise ModelOutputError(f"{self._url}: {self._endpoint.clean(str(error))}") from error
        if found.served is not None:  # which may not carry the key into the result
            found = found._replace(served=self._endpoint.clean(found.served))
        dimension = found.vectors.shape[1]
        if self._dim and dimension != self._dim:
            raise ModelOutputError(
                f"{self._url}: {dimension} dimensions, but {self._dim} were asked for; leave out --dim"
            )
        if self._expected and (first := self._expected.vectors.shape[1]) != dimension:
            raise ModelOutputError(f"{self._url}: {dimension} dimensions, but {first} before")
        if self._expected and found.served != self._expected.served:
            raise ModelOutputError(
                f"{self._url}: an answer of model {found.served!r:.100}, but of {self._expected.served!r:.100} before"
            )
        return found


def read_answer(data: bytes, texts: int) -> Answer:
    """The vectors of an answer, put in the order of its texts by their `index`.

    Raises:
        ValueError: it is not the embeddings of so many texts; says what is wrong and where.
    """
    try:
        root = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"the answer is not UTF-8 (byte {error.start}: 0x{data[error.start]:02x})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the answer is not JSON ({error}): {data[:60].decode(errors='replace')!r}") from error
    items = root.get("data") if isinstance(root, dict) else None
    if not isinstance(items, list):
        raise ValueError(f"the answer has no list `data`: {data[:100].decode(errors='replace')!r}")
    served = root.get("model")
    if served is not None and not isinstance(served, str):
        raise ValueError(f"model is {served!r:.60}, not a text")
    vectors: dict[int, list[float]] = {}
    for place, item in enumerate(items):
        index, vector = (item.get("index"), item.get("embedding")) if isinstance(item, dict) else (None, None)
        if type(index) is not int or not 0 <= index < texts:
            raise ValueError(f"data[{place}].index is {index!r:.60}; expected 0 to {texts - 1}")
        if index in vectors:
            raise ValueError(f"data[{place}].index is {index}, which is there twice")
        if not isinstance(vector, list) or not vector:
            raise ValueError(f"data[{place}].embedding is {vector!r:.60}; expected a list of numbers")
        if not set(map(type, vector)) <= {int, float}:
            i = next(i for i, x in enumerate(vector) if type(x) not in (int, float))
            raise ValueError(f"data[{place}].embedding[{i}] is {vector[i]!r:.60}, not a number")
        vectors[index] = vector
    if missing := [i for i in range(texts) if i not in vectors]:
        raise ValueError(f"{len(vectors)} embeddings for {texts} texts; index {missing[0]} is missing")
    widths = {i: len(vectors[i]) for i in range(texts)}
    if odd := [i for i in range(texts) if widths[i] != widths[0]]:
        raise ValueError(f"the embedding of index {odd[0]} has {widths[odd[0]]} numbers, that of index 0 {widths[0]}")
    try:
        with np.errstate(over="ignore"):  # found below
            matrix = np.array([vectors[i] for i in range(texts)], np.float64).astype(np.float32)
    except OverflowError:  # a whole number of more than 308 digits
        raise ValueError("a number is beyond the range of float32") from None
    if (bad := ~np.isfinite(matrix)).any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"the embedding of index {row} has {vectors[row][column]!r} at [{column}]; not a float32")
    return Answer(matrix, served)


def _url(place: str) -> "httpx.URL":
    """The address of the endpoint: ends in `/embeddings`, and holds nothing secret."""
    import httpx

    try:
        url = httpx.URL(place)
    except httpx.InvalidURL as error:
        raise UsageError(f"not an address; write {SPELLING}") from error  # unseen: it may hold credentials
    if url.userinfo:
        raise UsageError(f"{url.host}: credentials in an address would be stored; set XBENCH_API_KEY instead")
    if url.query:
        raise UsageError(f"{url.host}: what follows ? in an address may be secret, and would be stored; leave it out")
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"not an http:// or https:// address; write {SPELLING}")
    return url.copy_with(path=url.path.rstrip("/").removesuffix("/embeddings") + "/embeddings", query=None)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _key() -> str | None:
    """The key: XBENCH_API_KEY, which may be empty, else OPENAI_API_KEY."""
    name = "XBENCH_API_KEY" if "XBENCH_API_KEY" in os.environ else "OPENAI_API_KEY"
    key = os.environ.get(name, "").strip()
    if not all("!" <= c <= "~" for c in key):
        raise UsageError(f"{name} holds characters that no key has (white space, or others than ASCII)")
    return key or None


def _limits() -> Limits:
    """What the environment says, else the defaults."""
    default = Limits()
    return Limits(
        int(_number("XBENCH_API_BATCH", default.batch, whole=True)),
        int(_number("XBENCH_API_CONCURRENCY", default.concurrency, whole=True)),
        _number("XBENCH_API_RPM", 0) or None,
        _number("XBENCH_API_TIMEOUT", default.timeout),
    )


def _number(name: str, default: float, *, whole: bool = False) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e6:
        raise UsageError(f"{name} is {text!r}; expected a {'whole ' if whole else ''}number above 0")
    return value
