"""`canary:NAME`: models whose right values are known beforehand. Other values mean that the harness is wrong.

- `constant`: every vector is the same. All scores tie: the rank of a passage is its place among the
  doc_ids of the pool, descending (the rule in `ranking`), whatever the query and the order of the files.
- `random`: random vectors, bound to the ids. The values are those of a random ranking, up to chance.
- `oracle`: has read the qrels. Relevant passages stand first: AP = RR = nDCG = 1, rank distance |R| - 1.
- `inverted`: the oracle's queries, negated. Relevant passages stand last: with R of them among N,
  RR = 1/(N - R + 1) and AP = (1/R) sum over i = 1..R of i/(N - R + i).
- `duplicate`: the oracle, but it knows texts and not passages, so passages with equal text tie. The one
  relevant passage of a mono or cross pool has rank 1 + the number of passages there with its text and a
  greater doc_id (unless the pool also holds the text of a relevant passage of another language).

All random bits are SHAKE-256's (FIPS 202) of an id or a text: the same on every machine and version.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xbench.errors import unknown
from xbench.models import Role
from xbench.records import Collection

CANARIES = ("constant", "random", "oracle", "inverted", "duplicate")
# Begins every hashed key; another seed gives other vectors.
SEED = 1
# Of a code, a row of random signs. A relevant passage scores D and an irrelevant one 0, both plus noise; for R
# relevant passages their difference has mean D and variance (2R - 1) D, so a pair is in the wrong order with
# probability Q(sqrt(D / (2R - 1))), Q being the normal tail. XQuAD-R has R = 11 and 914 distinct sets of
# relevant passages, 1.3e8 pairs: expected wrong are 52 at D = 512, 0.09 at 768, 2e-4 at 1,024. MLQA-R has
# R <= 4 and fewer pairs: below 1e-24. The seed is fixed, so that chance is taken once; the tests look.
# A task with more than some 12 relevant passages a query needs a larger D.
CODE = 1024
DIMENSIONS = {"constant": 1, "random": 64}


class Canary:
    """One of the canaries above; it sees the whole task.

    The vectors of all but `random` are integers, whose float32 products are exact (`ranking`).
    Grades do not weigh: a passage is relevant if its grade is above 0. So nDCG is 1 for the oracle
    where all grades of a query are equal, as in every task now; weights of 1 to 3 would drown in the noise.
    """

    def __init__(self, spelling: str):
        """Nothing to load.

        Raises:
            UsageError: no such canary.
        """
        self.name = spelling
        self.canary = spelling.removeprefix("canary:")
        if self.canary not in CANARIES:
            raise unknown("canary", self.canary, CANARIES)
        self.dimension = DIMENSIONS.get(self.canary, CODE)
        self.identity: dict[str, object] = {
            "kind": "canary",
            "canary": self.canary,
            "seed": SEED,
            "dimension": self.dimension,
        }

    def vectors(self, role: Role, language: str, collection: Collection) -> NDArray[np.float32]:
        """float32 (n, d), C-contiguous, no row of zeros: the vectors of a role and language, in the task's order.

        d is 1 for `constant`, 64 for `random`, 1,024 for the others.
        """
        ids = collection.ids(role, language)
        if self.canary == "constant":
            return np.ones((len(ids), self.dimension), np.float32)
        if self.canary == "random":
            drawn = _drawn([f"{role}\0{id_}" for id_ in ids], 2 * self.dimension).view("<u2")
            # Uniform in (-1, 1), without 0; 17 bits, so float32 holds them and equal scores are rare.
            return ((drawn - 32767.5) / 32768).astype(np.float32)
        if role == "passages":
            return _codes([self._key(*row) for row in collection.passages[language]]).astype(np.float32)
        sums = self._sums(ids, collection)
        return (-sums if self.canary == "inverted" else sums).astype(np.float32)

    def _key(self, doc_id: str, text: str) -> str:
        """What the code of a passage depends on."""
        return f"text\0{text}" if self.canary == "duplicate" else f"passage\0{doc_id}"

    def _sums(self, ids: Sequence[str], collection: Collection) -> NDArray[np.int64]:
        """int64 (n, d): for each query the sum of the distinct codes of its relevant passages."""
        key_of = {row.doc_id: self._key(*row) for rows in collection.passages.values() for row in rows}
        wanted = [{key_of[d] for d, grade in collection.qrels[id_].items() if grade > 0} for id_ in ids]
        place = {key: i for i, key in enumerate(sorted(set().union(*wanted)))}
        codes = _codes(list(place))
        sums = np.empty((len(ids), self.dimension), np.int64)
        for i, keys in enumerate(wanted):
            sums[i] = codes[[place[key] for key in keys]].sum(axis=0, dtype=np.int64)
            if not sums[i].any():  # nothing is relevant, or the codes cancel: a code that no passage has
                sums[i] = _codes([f"query\0{ids[i]}"])[0]
        return sums


def _drawn(keys: Sequence[str], size: int) -> NDArray[np.uint8]:
    """uint8 (n, size): the first bytes of SHAKE-256 of the seed and each key."""
    drawn = b"".join(hashlib.shake_256(f"{SEED}\0{key}".encode()).digest(size) for key in keys)
    return np.frombuffer(drawn, np.uint8).reshape(len(keys), size)


def _codes(keys: Sequence[str]) -> NDArray[np.int8]:
    """int8 (n, CODE): a row of random signs, +1 or -1, for each key."""
    return np.unpackbits(_drawn(keys, CODE // 8), axis=1).view(np.int8) * np.int8(2) - np.int8(1)
