"""Groups that are about one thing: they share a passage in some language, so a question of one is answered by both."""

import numpy as np
from numpy.typing import NDArray


def kin_of(group: NDArray[np.uint64], passage: NDArray[np.uint64], used: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(n,): the same number for rows whose groups are one, or share a passage, or are so linked by others.

    Args:
        group, passage: (n,) hashes.
        used: (n,) the rows that count; others have the number -1.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups, of_group = np.unique(group[used], return_inverse=True)
    passages, of_passage = np.unique(passage[used], return_inverse=True)
    places = of_group.astype(np.int32), (of_passage + len(groups)).astype(np.int32)
    graph = coo_array((np.ones(len(of_group), np.int8), places), shape=(len(groups) + len(passages),) * 2)
    _, label = connected_components(graph, directed=False)
    found = np.full(len(group), -1, np.int32)
    found[used] = label[of_group]
    return found


def first_of_kin(group: NDArray[np.uint64], kin: NDArray[np.int32]) -> NDArray[np.uint64]:
    """(n,): the least hash of a group among a row's kin, which names them all, whatever the order of the rows."""
    least = np.full(int(kin.max(initial=-1)) + 2, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, kin, group)  # the last place is of rows that are not used
    return np.asarray(least[kin])
