"""Groups of questions that share material: their values are not independent, so statistics draw them together."""

from collections.abc import Sequence

import numpy as np


def clusters(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Question -> the first of the paragraphs that it shares, directly or by others, with other questions.

    Args:
        pairs: a question and a paragraph that answers it, in the task's order. Where translations of a question have
            one name, those that share a paragraph in one language and those that share one in another are one cluster.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    questions, paragraphs = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    place = {name: i for i, name in enumerate(questions)}
    node = {name: len(questions) + i for i, name in enumerate(paragraphs)}
    ends = np.array([(place[q], node[p]) for q, p in pairs]).T
    size = len(questions) + len(paragraphs)
    _, component = connected_components(coo_array((np.ones(len(pairs)), tuple(ends)), (size, size)), directed=False)
    first: dict[int, str] = {}
    for name in paragraphs:
        first.setdefault(int(component[node[name]]), name)
    return {name: first[int(component[place[name]])] for name in questions}
