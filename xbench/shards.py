"""The vectors of corpora that are too large to hold: shards of passages, each written whole, verified, resumable.

A shard is `rows` passages of one corpus file, from `start` on. Which batches its texts are encoded in depends on
nothing but the shard, so a killed and resumed run ends with the same bytes, and any machine can encode any shard.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from xbench.batches import check_width
from xbench.distant import Distant
from xbench.drafts import Advance, Draft, encode_drafts
from xbench.encode import full_identity
from xbench.errors import DataError
from xbench.folders import Folder, describe
from xbench.models import Encoder
from xbench.progress import log, track
from xbench.records import Corpus, CorpusFile, Passage
from xbench.shard import Shard, stored_shard, stored_shards
from xbench.storage import fingerprint
from xbench.store import Cut
from xbench.workers import Here, Workers

SCHEMA = 1  # raised when the layout of a shard or the plan of its batches changes: old shards are then unread
ROWS = 1 << 16


def shard_identity(model: Encoder, batch_tokens: int | None, shard_rows: int) -> dict[str, object]:
    """All that can move a vector of a shard: the model, and how batches are cut."""
    return {**full_identity(model, batch_tokens), "shards": SCHEMA, "shard_rows": shard_rows}


class Shards(NamedTuple):
    """Of a corpus, in its order; `encoded` passages are of this run."""

    shards: list[Shard]
    encoded: int

    @property
    def cut(self) -> Cut | None:
        """What was cut off the passages; None if the model did not tell."""
        each = [shard.cut for shard in self.shards]
        told = [cut for cut in each if cut is not None]
        return None if len(told) < len(each) else Cut(sum(c.texts for c in told), sum(c.tokens for c in told))


class _File(NamedTuple):
    """A corpus file and its shards that are there, by number."""

    language: str
    file: CorpusFile
    folder: Folder
    shards: dict[int, Shard]

    @property
    def complete(self) -> bool:
        return any(shard.last for shard in self.shards.values()) and max(self.shards) + 1 == len(self.shards)

    @property
    def rows(self) -> int:
        """Passages in its shards."""
        return sum(shard.rows for shard in self.shards.values())


def encode_corpora(
    model: Encoder,
    corpora: Mapping[str, Corpus],
    root: Folder,
    *,
    shard_rows: int = ROWS,
    batch_tokens: int | None = None,
    workers: Workers | None = None,
) -> dict[str, Shards]:
    """The shards of corpora by language, in their order; those that are there are verified, the others encoded.

    A file whose shards are all there is not read. Of texts that are equal within a shard one is encoded.
    Held at once: the texts and ids of two shards, the vectors of one (of two, if it has equal texts). With workers
    of a cluster each of them holds that much; here are the texts of as many shards as they encode, and of two more.

    Args:
        model: the encoder; one that is `Distant` needs the workers that it is on.
        corpora: by language; their files are known by their hashes.
        root: the folder of all shards.
        shard_rows: passages a shard; part of the store's key.
        batch_tokens: as in `encode.encode`.
        workers: by default this process.

    Raises:
        DataError: the number of passages is not the expected one; besides what `corpus.read` raises.
        ModelOutputError: as in `encode.encode`.
        IntegrityError, StorageError: a shard is damaged or cannot be read or written.
        IncompleteError: as `Workers.map`.
    """
    workers = workers or Here()
    identity = shard_identity(model, batch_tokens, shard_rows)
    describe(root / fingerprint(identity), identity)
    files = find_files(model, corpora, root, shard_rows, batch_tokens)
    there = [shard for file in files for shard in file.shards.values()]
    before = {language: sum(file.rows for file in files if file.language == language) for language in corpora}
    verify(there, workers)
    dimension = next((shard.dimension for shard in there if shard.rows), None)
    by_folder: dict[Folder, list[_File]] = {}  # languages may have one file
    for file in files:
        by_folder.setdefault(file.folder, []).append(file)
    left = max(0, sum(map(len, corpora.values())) - sum(before.values()))
    for language in corpora:
        _check_size(language, corpora[language], files)
    with track("encoding passages", left, "passages") as advance:
        lacking = {folder: some[0] for folder, some in by_folder.items() if not some[0].complete}
        drafts = _drafts(list(lacking.values()), corpora, shard_rows, model.told_language)
        for shard in _encoded(model, drafts, batch_tokens, dimension, workers, advance):
            if shard.rows:
                dimension = dimension or shard.dimension
                check_width(model.name, shard.dimension, dimension, f"{shard.source}, row {shard.start + 1}")
            for file in by_folder[shard.folder]:
                file.shards[shard.number] = shard
                _check_size(file.language, corpora[file.language], files)
    found: dict[str, Shards] = {}
    for language in corpora:
        own = [file for file in files if file.language == language]
        shards = [file.shards[number] for file in own for number in sorted(file.shards)]
        rows = sum(shard.rows for shard in shards)
        found[language] = Shards(shards, rows - before[language])
        log.info("%s: %d passages in %d shards, %d passages new", language, rows, len(shards), rows - before[language])
    return found


def _check_size(language: str, corpus: Corpus, files: Sequence[_File]) -> None:
    """Of a corpus that is whole, before others take hours."""
    own = [file for file in files if file.language == language]
    if all(file.complete for file in own) and (found := sum(file.rows for file in own)) != len(corpus):
        where = f"{corpus.files[0].path.parent}: " if corpus.files else ""
        raise DataError(f"{where}{language}: found {found} passages, expected {len(corpus)}; is a file missing?")


def find_files(
    model: Encoder, corpora: Mapping[str, Corpus], root: Folder, shard_rows: int, batch_tokens: int | None
) -> list[_File]:
    """The files of corpora, each with its shards that are there, not verified.

    Raises:
        IntegrityError, StorageError: as `encode_corpora`.
    """
    folder = root / fingerprint(shard_identity(model, batch_tokens, shard_rows))
    found: list[_File] = []
    for language, corpus in corpora.items():
        for file in corpus.files:
            own = folder / _key(file, corpus.form, language if model.told_language else "")
            found.append(_File(language, file, own, stored_shards(own, file.path)))
    return found


def verify(shards: Sequence[Shard], workers: Workers) -> None:
    """Read shards and compare their hashes."""
    if shards:
        with track("verifying shards", sum(shard.rows for shard in shards), "passages") as advance:
            for rows in workers.map(_verify, None, shards):
                advance(rows)


def _verify(_: None, shard: Shard) -> int:
    shard.verify()
    return shard.rows


def _key(file: CorpusFile, form: str, told: str) -> str:
    """The folder of a corpus file's shards: other bytes, another way to read them or another language, another one."""
    return fingerprint({"file": file.sha256, "form": form, "language": told})[:32]


def _drafts(files: Sequence[_File], corpora: Mapping[str, Corpus], shard_rows: int, told: bool) -> Iterator[Draft]:
    """The shards that are missing, each with its passages; a file is read no further than to its last one."""
    for file in files:
        there = dict(file.shards)  # of now: what is missing grows less meanwhile
        after = next((number + 1 for number, shard in there.items() if shard.last), None)
        left = None if after is None else max(number for number in range(after) if number not in there)
        path, language = file.file.path, file.language
        for number, (rows, last) in enumerate(_chunks(corpora[language].read(path), shard_rows)):
            if number not in there:
                ids, texts = [row.doc_id for row in rows], [row.text for row in rows]
                place = file.folder, number, path, number * shard_rows, last
                yield Draft(*place, ids, texts, language, language if told else "")
            if number == left:
                break


def _chunks(rows: Iterator[Passage], size: int) -> Iterator[tuple[list[Passage], bool]]:
    """`size` rows at a time, and whether they are the last; at least once."""
    following = list(itertools.islice(rows, 1))
    while True:
        some = following + list(itertools.islice(rows, size - len(following)))
        following = list(itertools.islice(rows, 1))
        yield some, not following
        if not following:
            return


def _encoded(
    model: Encoder,
    drafts: Iterator[Draft],
    batch_tokens: int | None,
    dimension: int | None,
    workers: Workers,
    advance: Advance,
) -> Iterator[Shard]:
    """The shards of drafts, as they are done."""
    if not isinstance(model, Distant):
        yield from encode_drafts(model, drafts, batch_tokens, dimension, advance)
        return
    for shard in workers.map(encode_draft, (model, batch_tokens), _read_ahead(drafts)):
        advance(shard.rows)
        yield shard


def _read_ahead(drafts: Iterator[Draft]) -> Iterator[Draft]:
    """A thread reads the next draft while the last one is on its way: no worker waits for a file."""
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(next, drafts, None)
        while (draft := future.result()) is not None:
            future = executor.submit(next, drafts, None)
            yield draft


def encode_draft(how: tuple[Distant, int | None], draft: Draft) -> Shard:
    """On a worker: one shard, unless a worker that was lost had written it."""
    model, batch_tokens = how
    if (found := stored_shard(draft.folder, draft.source, draft.number)) is not None:
        return found
    (shard,) = encode_drafts(model.load(), [draft], batch_tokens)
    return shard
