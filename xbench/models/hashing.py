"""`hash`: signed hashed character n-grams. No weights, no network; the embedded default."""

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xbench.models import Prepared, Role

DIMENSION = 1024
NGRAMS = (2, 3, 4)
# Entries are multiples of 2^-12 and norms below 1: dot products then need at most 24 bits, so
# float32 adds them up exactly, in any order, on any machine.
GRID, NORM = 2.0**12, 0.999


class HashEncoder:
    """Signed feature hashing (Weinberger et al. 2009, arXiv 0902.2206) of character n-grams.

    Text is NFKC-folded, split at white space and each word padded with spaces; the counts of
    its 2- to 4-grams are damped (square root), added with a hashed sign into 1,024 buckets and
    scaled to length 0.999. Language-blind: similar spelling is all it knows.
    """

    name = "hash"
    told_language = False
    batch_tokens = 1 << 16

    def __init__(self) -> None:
        """Nothing to load."""
        self.identity: dict[str, object] = {
            "kind": "hash",
            "version": 1,
            "dimension": DIMENSION,
            "ngrams": list(NGRAMS),
            "grid": GRID,
            "norm": NORM,
            "unicode": unicodedata.unidata_version,
        }

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared:
        """The texts themselves; their length is in characters, and nothing is cut."""
        return Prepared(texts, [len(text) for text in texts], [0] * len(texts))

    def encode(self, items: Sequence[str], role: Role, language: str) -> NDArray[np.float32]:
        """float32 (n, 1024)."""
        return np.stack([_encode(text) for text in items])


def _encode(text: str) -> NDArray[np.float32]:
    folded = " " + "  ".join(unicodedata.normalize("NFKC", text).casefold().split()) + " "
    points = np.frombuffer(folded.encode("utf-32-le"), np.uint32).astype(np.uint64)
    vector = np.zeros(DIMENSION)
    for n in NGRAMS:
        if len(points) < n:
            continue
        grams = np.full(len(points) - n + 1, n, np.uint64)
        for i in range(n):
            # The finaliser of MurmurHash3 after each character: every bit reaches the bucket.
            grams = _mix(grams * np.uint64(0x9E3779B97F4A7C15) + points[i : len(points) - n + 1 + i])
        # Not n-grams that span two words, nor the gap itself.
        gap = np.zeros(len(grams), np.bool_)
        for i in range(n - 1):
            gap |= (points[i : len(grams) + i] == 32) & (points[i + 1 : len(grams) + i + 1] == 32)
        unique, counts = np.unique(grams[~gap], return_counts=True)
        signs = np.where(unique >> np.uint64(63), -1.0, 1.0)
        np.add.at(vector, (unique % np.uint64(DIMENSION)).astype(np.int64), signs * np.sqrt(counts))
    norm = np.linalg.norm(vector)
    if norm:
        vector = np.trunc(vector * (NORM / norm) * GRID) / GRID  # towards zero: the norm stays below 1
    return vector.astype(np.float32)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    x ^= x >> np.uint64(33)
    return x
