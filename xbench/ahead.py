"""The vectors of a task ahead of its evaluation: written, or counted beforehand."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xbench.encode import encode
from xbench.errors import UsageError
from xbench.large import Large, encode_all
from xbench.models import ROLES, Encoder
from xbench.readers import parts, pin
from xbench.readers.part import Part
from xbench.records import Collection
from xbench.space import joined
from xbench.tables import Table, Value
from xbench.task import Task

if TYPE_CHECKING:
    from xbench.evaluate import Plan


class Texts(NamedTuple):
    """What a task has: all of it held, or with passages that are not."""

    task: Task
    parts: list[Part]

    @property
    def large(self) -> Part | None:
        """The part whose passages are not held; a task that has one has no other."""
        return next((part for part in self.parts if part.collection.large), None)

    @property
    def held(self) -> Collection:
        """All texts that are held, in the order in which they are encoded."""
        return joined([part.collection for part in self.parts])


def read_texts(model: Any, task: Task, plan: "Plan") -> Texts:
    """The texts of a task, as `evaluate` reads them.

    Raises:
        UsageError: the model does not encode texts.
        XbenchError: as `readers.parts`.
    """
    if not isinstance(model, Encoder):
        raise UsageError(f"model {model.name!r} does not encode texts: there are no vectors to write")
    task = pin(task, plan.data, offline=plan.offline)
    return Texts(task, list(parts(task, plan.data, offline=plan.offline)))


def encode_task(model: Encoder, task: Task, plan: "Plan", large: Large, batch_tokens: int | None = None) -> Table:
    """Encode all texts of a task into the cache, or `plan.shards`; the table says what is there.

    Raises:
        XbenchError: as `encode.encode` and `large.encode_all`.
    """
    texts = read_texts(model, task, plan)
    rows: list[list[Value]] = []
    shards: dict[str, Any] = {}
    if texts.large:
        place: dict[str, Any] = {"shards": plan.shards, "workers": plan.workers}
        encoded, shards = encode_all(model, texts.large.collection, large, plan.cache, batch_tokens, **place)
    else:
        encoded = encode(model, texts.held, plan.cache, batch_tokens, plan.workers)
    for role in ROLES:
        for language, vectors in encoded.vectors[role].items():
            if len(vectors):
                cut = _cut(encoded.cut[role][language])
                rows.append([role, language, len(vectors), None, vectors.nbytes / 1e6, *cut])
    for language, some in shards.items():
        size = sum(4 * shard.rows * shard.dimension for shard in some)
        count = sum(shard.rows for shard in some)
        rows.append(["passages", language, count, len(some), size / 1e6, *_cut(encoded.cut["passages"][language])])
    title = f"{task.name} by {model.name}: vectors of {encoded.texts} texts, {encoded.encoded} encoded now"
    return Table(title, ["role", "language", "texts", "shards", "MB", "cut texts", "cut tokens"], rows)


def _cut(cut: Sequence[int] | None) -> list[Value]:
    """Texts and tokens, where the model tells."""
    return [None, None] if cut is None else [int(n) for n in cut]
