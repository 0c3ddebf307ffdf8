"""What float32 and float64 sums are worth: products of matrices, their error bounds, exact scores."""

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

# Dimensions of a vector that are added up in one go.
SPLIT = 256
U32, U64 = 2.0**-24, 2.0**-53


def exact_score(query: Matrix, passage: Matrix) -> float:
    """The rule's score of a pair of vectors (d,): their dot product, rounded once."""
    return math.fsum(np.multiply(query, passage, dtype=np.float64).tolist())  # 24 + 24 bits: the products are exact


def exact_scores(queries: Matrix, passages: Matrix) -> NDArray[np.float64]:
    """(m,) `exact_score` of each row of queries (m, d) with that of passages (m, d), at a tenth of its price.

    The products are added up in pairs, and what each sum loses is known to the bit (Knuth's TwoSum; Ogita, Rump and
    Oishi 2005, algorithm 4.1). Those losses are added up in float64: where the little that this can be wrong by might
    move the rounded score, `exact_score` computes it.
    """
    terms = np.multiply(queries, passages, dtype=np.float64)
    lost, size = np.zeros((2, len(terms)))
    while (width := terms.shape[1]) > 1:
        half = width // 2
        a, b = terms[:, :half], terms[:, half : 2 * half]
        sums = a + b
        of_b = sums - a
        errors = (a - (sums - of_b)) + (b - of_b)
        lost += errors.sum(axis=1)
        size += np.abs(errors).sum(axis=1)
        terms = np.concatenate([sums, terms[:, 2 * half :]], axis=1)
    wrong = 2 * queries.shape[1] * U64 * size
    low = terms[:, 0] + np.nextafter(lost - wrong, -np.inf)
    found: NDArray[np.float64] = terms[:, 0] + np.nextafter(lost + wrong, np.inf)
    for i in np.flatnonzero(low != found):
        found[i] = exact_score(queries[i], passages[i])
    return found


def largest_norm(matrix: Matrix) -> float:
    """The largest Euclidean norm of the rows, rounded up."""
    if not len(matrix):
        return 0.0
    squares = np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64, casting="same_kind")
    return math.sqrt(float(squares.max())) * (1 + int(matrix.shape[1]) * U64)


def grid(matrix: Matrix) -> int | None:
    """The smallest s up to 20 such that every value is a multiple of 2^-s, or None."""
    step = max(1, (1 << 20) // max(1, matrix.shape[1]))
    blocks = [matrix[:1], *(matrix[i : i + step] for i in range(0, len(matrix), step))]  # mostly, one row tells
    for s in range(21):
        scale = np.float32(2.0**s)
        if all(np.array_equal(block * scale, np.rint(block * scale)) for block in blocks):
            return s
    return None


def error_band(dimension: int, query_norm: float, pool_norm: float, split: bool = False) -> float:
    """How far a float32 dot product, summed in any order, can be from the true one.

    The worst case, d u |q||p| (Higham 2002, section 3.1), and what the products lose below float32's
    range. `split`: for `multiply`, whose longest sum has SPLIT terms, then one for each part.
    """
    terms = min(dimension, SPLIT) + -(-dimension // SPLIT) if split else dimension
    return (terms + 2) * U32 * 1.01 * query_norm * pool_norm + (dimension + 1) * 2.0**-149


_LOCAL = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """An array of this thread, with whatever was in it: fresh pages for each block would cost more than it."""
    size = math.prod(shape)
    held: NDArray[Any] | None = getattr(_LOCAL, name, None)
    if held is None or held.size < size:
        held = np.empty(size, dtype)
        setattr(_LOCAL, name, held)
    return held[:size].reshape(shape)


def multiply(queries: Matrix, passages: Matrix, out: Matrix) -> None:
    """The product (n, d) x (m, d) into `out` (n, m), from parts of SPLIT dimensions.

    The worst error grows with the longest sum: SPLIT cuts it to a third at d = 768, and with it the
    comparisons that float64 must decide.
    """
    np.matmul(queries[:, :SPLIT], passages[:, :SPLIT].T, out=out)
    for low in range(SPLIT, queries.shape[1], SPLIT):
        part = scratch("part", (len(queries), len(passages)), np.float32)
        np.matmul(queries[:, low : low + SPLIT], passages[:, low : low + SPLIT].T, out=part)
        out += part


def float64_doubt(dimension: int, norms: float) -> float:
    """How far apart two float64 sums of equal dot products can be: twice the worst error, d u |q||p|."""
    return 2 * (dimension + 1) * U64 * norms
