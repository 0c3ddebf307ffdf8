"""Made-up corpora in MIRACL's format: topics, qrels, docs-N.jsonl.gz and the task's file; the same bytes each time."""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# An encoder that costs next to nothing: a text's vector is a function of its bytes, that of a query near its passage's.
ENCODER = """
import os, pathlib, time, zlib
import numpy as np

TABLE, NOISE = np.random.default_rng(0).standard_normal((2, 4096, {dimension}), dtype=np.float32)
SEEN = {seen!r}  # a folder: what each process encodes is written there


class Cheap:
    batch_tokens = 1 << 18
    fingerprint = "{dimension} {company}"

    def encode_passages(self, texts, language):
        if SEEN:
            with (pathlib.Path(SEEN) / str(os.getpid())).open("a") as file:
                file.write(f"{{len(texts)}}\\n")
        own = np.array([zlib.crc32(text.removesuffix("?").encode()) for text in texts])
        out = TABLE[own & 4095] + TABLE[own >> 12 & 4095] + TABLE[own >> 20]
        if {company}:  # the last bits depend on the batch, as with real models
            out += np.float32(zlib.crc32("|".join(texts).encode()) * 1e-12)
        time.sleep({delay} * len(texts))
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    def encode_queries(self, texts, language):
        own = [zlib.crc32(text.encode()) & 4095 for text in texts]
        return self.encode_passages(texts, language) + np.float32(0.05) * NOISE[own]
"""


def write_encoder(path: Path, dimension: int = 256, *, company: bool = False, delay: float = 0, seen: str = "") -> Path:
    """The encoder as a file for `py:FILE:Cheap`."""
    path.write_text(ENCODER.format(dimension=dimension, company=company, delay=delay, seen=seen), encoding="utf-8")
    return path


def make(
    folder: Path, name: str, sizes: Mapping[str, Sequence[int]], queries: int = 100, characters: int = 600
) -> Path:
    """Write the task NAME.toml into `folder`, and its sources into `folder`/data/NAME; returns the file.

    Args:
        folder: of all.
        name: of the task.
        sizes: of each language the number of passages in each of its files.
        queries: of each language, each with up to three relevant passages of the first file.
        characters: of a text, about.
    """
    data = folder / "data" / name
    data.mkdir(parents=True)
    rng = np.random.default_rng(0)
    letters = rng.integers(ord("a"), ord("z") + 1, (5000, 10), np.uint8)
    words = [line[:size].tobytes().decode() for line, size in zip(letters, rng.integers(2, 11, 5000), strict=True)]
    sentences = [
        " ".join([words[i] for i in line]).capitalize() + "." for line in rng.integers(0, 5000, (20_000, 17)).tolist()
    ]
    files, counts = [], []
    for language, rows in sizes.items():
        asked: list[tuple[str, list[str]]] = []
        step = max(1, rows[0] // queries)
        done = 0
        for number, size in enumerate(rows):
            path = data / f"docs-{language}-{number}.jsonl.gz"
            chosen = rng.integers(0, len(sentences), (size, max(1, characters // 120)))
            with path.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as file:
                for i in range(size):
                    docid = f"{(done + i) // 10}#{(done + i) % 10}"
                    text = " ".join([sentences[j] for j in chosen[i]]) + ("" if i % 7 == 6 else f" {number}.{i}")
                    title = f"Article {(done + i) // 10}"
                    file.write(f'{{"docid": "{docid}", "title": "{title}", "text": "{text}"}}\n'.encode())
                    if number == 0 and i % step == 0 and len(asked) < queries:
                        others = [f"{j // 10}#{j % 10}" for j in (i * 7 % size, i * 3 % size)]
                        asked.append((f"{title} {text}?", sorted({docid, *others})))
            done += size
            files.append((f"passages-{language}-{number}", path, language))
        topics, qrels = data / f"topics-{language}.tsv", data / f"qrels-{language}.tsv"
        topics.write_text("".join(f"{i}\t{text}\n" for i, (text, _) in enumerate(asked)), encoding="utf-8")
        lines = [f"{i} Q0 {docid} 1\n" for i, (_, relevant) in enumerate(asked) for docid in relevant]
        qrels.write_text("".join(lines), encoding="utf-8")
        files += [(f"topics-{language}", topics, language), (f"qrels-{language}", qrels, language)]
        counts.append(
            f"{language} = {{ queries = {len(asked)}, passages = {done}, judged = {len(lines)}, "
            f"relevant = {len(lines)} }}"
        )
    sources = [
        f'{key} = {{ name = "{path.name}", languages = ["{language}"], size = {path.stat().st_size}, '
        f'sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"'
        + (", passages = true" if key.startswith("passages") else "")
        + " }"
        for key, path, language in files
    ]
    task = folder / f"{name}.toml"
    task.write_text(
        "\n".join(
            [
                f'name = "{name}"\nversion = 1\ntitle = "Made up"\ndescription = "Made up."\nformat = "miracl"',
                f'licence = "none"\nlanguages = {json.dumps(list(sizes))}\nsettings = ["mono"]\noptional = ["multi"]',
                'parallel = false\nmeasures = ["nDCG@10", "R@100", "AP"]\nprimary = "nDCG@10"\ncitation = "none"',
                '[options]\njoin = " "\n[source]\nrepository = "none"\nrevision = "1"',
                'url = "https://example.org/{file}"\n[files]',
                *sources,
                "[counts]",
                *counts,
            ]
        )
        + "\n",
        encoding="utf-8",
    )
    return task
