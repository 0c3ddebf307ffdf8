"""Families and what they ask for; dimensions; what makes one model another."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import TEXTS, edit, hidden_of, ids_of, open_

from xbench.cli.options import command_line
from xbench.encode import encode
from xbench.errors import UsageError
from xbench.models import ROLES, Options, load
from xbench.models.families import FAMILIES, by_name, complete, recognise
from xbench.models.safety import safe_files
from xbench.readers import read
from xbench.storage import fingerprint
from xbench.tasks import load_task

pytestmark = pytest.mark.usefixtures("one_thread")

WEB = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
# By hand from the models' cards, and from MTEB 2.26.24 (mteb/models/model_implementations).
ASKED: dict[str, tuple[str | None, str, str]] = {
    "FacebookAI/xlm-roberta-base": (None, "", ""),
    "xlm-roberta-large": (None, "", ""),
    "google-bert/bert-base-multilingual-cased": (None, "", ""),
    "sentence-transformers/LaBSE": ("modules", "", ""),
    "intfloat/multilingual-e5-small": ("mean", "query: ", "passage: "),
    "intfloat/multilingual-e5-base": ("mean", "query: ", "passage: "),
    "intfloat/multilingual-e5-large": ("mean", "query: ", "passage: "),
    "intfloat/multilingual-e5-large-instruct": ("mean", f"{WEB} ", ""),
    "BAAI/bge-m3": ("cls", "", ""),
    "Alibaba-NLP/gte-multilingual-base": ("cls", "", ""),
    "Qwen/Qwen3-Embedding-0.6B": ("last", WEB, ""),
    "Qwen/Qwen3-Embedding-8B": ("last", WEB, ""),
    "jinaai/jina-embeddings-v3": (
        "mean", "Represent the query for retrieving evidence documents: ", "Represent the document for retrieval: ",
    ),
    "jinaai/jina-embeddings-v5-text-small": ("last", "Query: ", "Document: "),
    "jinaai/jina-embeddings-v5-text-small-retrieval": ("last", "Query: ", "Document: "),
    "jinaai/jina-embeddings-v5-text-nano-retrieval": ("last", "Query: ", "Document: "),
    "Snowflake/snowflake-arctic-embed-l-v2.0": ("cls", "query: ", ""),
    "Snowflake/snowflake-arctic-embed-m-v2.0": ("cls", "query: ", ""),
    "nomic-ai/nomic-embed-text-v1.5": ("mean", "search_query: ", "search_document: "),
    "nomic-ai/nomic-embed-text-v2-moe": ("mean", "search_query: ", "search_document: "),
    "google/embeddinggemma-300m": ("modules", "task: search result | query: ", "title: none | text: "),
    "facebook/mcontriever": ("mean", "", ""),
    "facebook/mcontriever-msmarco": ("mean", "", ""),
}  # fmt: skip
# Loaded with trust_remote_code=True by MTEB.
WITH_CODE = {
    "Alibaba-NLP/gte-multilingual-base", "jinaai/jina-embeddings-v3", "jinaai/jina-embeddings-v5-text-small",
    "jinaai/jina-embeddings-v5-text-nano-retrieval", "Snowflake/snowflake-arctic-embed-m-v2.0",
    "nomic-ai/nomic-embed-text-v1.5", "nomic-ai/nomic-embed-text-v2-moe",
}  # fmt: skip
OTHERS = [
    "hash",
    "BAAI/bge-m3-retromae",
    "me/my-xlm-roberta-base",
    "intfloat/e5-base",
    "Qwen/Qwen3-0.6B",
    "",
    "/",
    "bge-m3x",
]


@pytest.fixture
def plain(copy: Path) -> Callable[..., Path]:
    """The tiny XLM-R, called after another model in its config."""

    def make(name: str | None = None, **config: Any) -> Path:
        edit(copy / "config.json", _name_or_path=name, **config)
        return copy

    return make


@pytest.mark.parametrize("name", ASKED)
def test_families_by_name(name: str) -> None:
    family = by_name(name)
    assert family and (family.pooling, family.query, family.passage) == ASKED[name]
    assert family.similarity == ("dot" if "contriever" in name else "cosine") and family.code == (name in WITH_CODE)
    assert family.url.startswith("https://") and by_name(name.lower()) == by_name(f"/models/{name}/") == family
    assert sum(f == family for f in FAMILIES) == 1


def test_the_table_of_the_docs() -> None:
    def cell(text: str) -> str:
        return "`" + text.replace("\n", "\\n").replace("|", "\\|") + "`" if text else ""

    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    table = page.partition("### Families")[2].partition("## ")[0]
    assert re.findall(r"^\| `.*$", table, re.MULTILINE) == [
        f"| {cell(f.names)} | {f.pooling or ''} | {f.similarity} | {cell(f.query)} | {cell(f.passage)} | "
        f"{'yes' if f.code else ''} | {f.url} |"
        for f in FAMILIES
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_are_of_no_family(name: str) -> None:
    assert by_name(name) is None


@pytest.mark.parametrize(
    ("front", "known"),
    [
        ("---\nbase_model: intfloat/multilingual-e5-base\n---\n", True),
        ("---\r\nlicense: mit\r\nbase_model:\r\n- intfloat/multilingual-e5-base\r\ntags:\r\n- x\r\n---\r\ntext", True),
        ("---\nbase_model:\n  - some/other\n  - 'intfloat/multilingual-e5-base'\n---\n", True),
        ('---\nbase_model: "intfloat/multilingual-e5-base"\n---\n', True),
        ("---\nbase_model: [intfloat/multilingual-e5-base]\n---\n", True),
        ("---\nlicense: mit\n---\nbase_model: intfloat/multilingual-e5-base\n", False),
        ("base_model: intfloat/multilingual-e5-base\n", False),
        ("---\nbase_model: a/b\ntags:\n- intfloat/multilingual-e5-base\n---\n", False),
        ("---\nold_base_model: intfloat/multilingual-e5-base\n---\n", False),
        ("---\nbase_model:\n---\n", False),
        ("---\nbase_model: &a [*a, !!python/object/apply:os.system [x]]\n---\n", False),
        ("\ufeff\x00---\n" * 1000, False),
    ],
)
def test_family_of_the_base_model(front: str, known: bool, plain: Callable[..., Path]) -> None:
    folder = plain("/some/where")
    (folder / "README.md").write_bytes(front.encode())
    found = recognise(str(folder), safe_files(folder).files)
    assert (found == by_name("intfloat/multilingual-e5-base")) if known else found is None


def test_the_name_goes_before_the_config_before_the_card(plain: Callable[..., Path], tmp_path: Path) -> None:
    folder = plain("BAAI/bge-m3")
    (folder / "README.md").write_text("---\nbase_model: Qwen/Qwen3-Embedding-0.6B\n---\n")
    files = safe_files(folder).files
    assert recognise("facebook/mcontriever", files) == by_name("mcontriever")
    assert recognise("me/mine", files) == by_name("bge-m3")
    edit(folder / "config.json", _name_or_path=None)
    assert recognise("me/mine", files) == by_name("qwen3-embedding-0.6b")


@pytest.mark.parametrize("name", [name for name, (_, query, passage) in ASKED.items() if query or passage])
def test_a_prompt_that_is_asked_for_stops_with_the_options_to_add(name: str, plain: Callable[..., Path]) -> None:
    folder = plain(name)
    pooling = "mean" if ASKED[name][0] == "modules" else None
    with pytest.raises(UsageError) as caught:
        open_(folder, pooling=pooling)
    message = str(caught.value)
    assert caught.value.exit_code == 2 and "\n" not in message and str(folder) in message
    # The options, as bash reads them, are taken, and give the prompts of the table.
    script = f"printf '%s\\0' {message.partition(': add ')[2].partition(' (or ')[0]}"
    words = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    options = {word[2:].replace("-", "_"): value for word, value in zip(words[::2], words[1::2], strict=True)}
    model = open_(folder, pooling=pooling, **options)
    assert model.identity["prompts"] == dict(zip(ROLES, ASKED[name][1:], strict=True))
    silent = open_(folder, pooling=pooling, prompt_query="", prompt_passage="")
    assert silent.identity["prompts"] == dict.fromkeys(ROLES, "")


def test_one_prompt_may_be_missing(make_st: Callable[..., Path]) -> None:
    """Of a folder with prompts of its own, only what it lacks is asked for, whatever name it uses for passages."""
    folder = make_st()
    edit(folder / "config.json", _name_or_path="intfloat/multilingual-e5-base")
    file = folder / "config_sentence_transformers.json"
    for prompts, missing in (
        ({"query": "q: "}, "passage"),
        ({"document": "d: "}, "query"),
        ({"passage": "d: ", "query": "", "document": ""}, "query"),
    ):
        edit(file, prompts=prompts)
        with pytest.raises(UsageError, match=rf': add --prompt-{missing} "{missing}: " \(or'):
            open_(folder)
        assert open_(folder, **{f"prompt_{missing}": ""}).identity["prompts"].values()
    for name in ("document", "passage", "corpus"):
        edit(file, prompts={"query": "q: ", name: "p: "})
        assert open_(folder).identity["prompts"] == {"queries": "q: ", "passages": "p: "}


@pytest.mark.parametrize("name", ["BAAI/bge-m3", "facebook/mcontriever", "intfloat/multilingual-e5-small"])
def test_pooling_and_scaling_of_the_family(name: str, plain: Callable[..., Path]) -> None:
    """As the formula says, and the same model as with the options given by hand."""
    folder = plain(name)
    prompts = {"prompt_query": ASKED[name][1], "prompt_passage": ASKED[name][2]}
    model = open_(folder, **prompts)
    pooling, normalize = ASKED[name][0], "contriever" not in name
    hidden = hidden_of(folder, ids_of(folder, prompts["prompt_query"] + TEXTS[1]))
    expected = hidden[0] if pooling == "cls" else hidden.mean(axis=0)
    expected = expected / np.linalg.norm(expected) if normalize else expected
    assert np.abs(model.encode([TEXTS[1]], "queries", "")[0] - expected).max() <= 1e-5
    assert model.identity["pooling"] == pooling and model.identity["normalize"] is normalize
    assert model.identity["similarity"] == ("cosine" if normalize else "dot")
    by_hand = open_(folder, pooling=pooling, normalize=normalize, **prompts)
    assert fingerprint(by_hand.identity) == fingerprint(model.identity)
    other = open_(folder, pooling="last", normalize=not normalize, **prompts)
    assert other.identity["pooling"] == "last" and other.identity["normalize"] is not normalize


def test_what_needs_more_than_a_pooling(plain: Callable[..., Path], make_st: Callable[..., Path]) -> None:
    folder = plain("sentence-transformers/LaBSE")
    with pytest.raises(UsageError, match="needs more than a pooling of its last layer .*modules.json.*--pooling"):
        open_(folder)
    assert open_(folder, pooling="cls").identity["pooling"] == "cls"
    whole = make_st()
    edit(whole / "config.json", _name_or_path="sentence-transformers/LaBSE")
    assert open_(whole).identity["pooling"] == "cls"


def test_a_pooling_that_nobody_told_is_logged(plain: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    for name, assumed in ((None, True), ("FacebookAI/xlm-roberta-base", True), ("BAAI/bge-m3", False)):
        folder = plain(name)
        for pooling in (None, "mean"):
            caplog.clear()
            with caplog.at_level("INFO", "xbench"):
                found = complete(Options(pooling=pooling), by_name(name or ""), safe_files(folder).files, "hf:x")
            lines = [record.message for record in caplog.records]
            assert len(lines) == (assumed and pooling is None) and all("the mean is assumed" in line for line in lines)
            assert found.pooling == (pooling or ("cls" if name == "BAAI/bge-m3" else None))


def test_similarity_of_a_folder_goes_first(make_st: Callable[..., Path], sentence_transformers: Any) -> None:
    """Dot product by the family, where a folder names no similarity and does not scale by itself."""
    normalize = sentence_transformers.sentence_transformer.modules.Normalize()
    for folder, said, expected in (
        (make_st(), None, "dot"),
        (make_st(), "cosine", "cosine"),
        (make_st(), "dot", "dot"),
        (make_st(normalize), None, "cosine"),
    ):
        edit(folder / "config.json", _name_or_path="facebook/mcontriever")
        edit(folder / "config_sentence_transformers.json", similarity_fn_name=said)
        model = open_(folder)
        assert model.identity["similarity"] == expected and model.identity["normalize"] is (expected == "cosine")
        lengths = np.linalg.norm(model.encode(TEXTS, "queries", "").astype(np.float64), axis=1)
        assert (np.abs(lengths - 1).max() <= 1e-6) == (expected == "cosine")


def test_default_prompt_as_sentence_transformers(make_st: Callable[..., Path], sentence_transformers: Any) -> None:
    """encode_query and encode_document of 6.2 do not fall back to it, for a role without a prompt."""
    prompts = {"query": "query: ", "web": "web: "}
    folder = make_st(prompts=prompts, default_prompt_name="web")
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = 32
    model = open_(folder)
    for role, call in (("queries", theirs.encode_query), ("passages", theirs.encode_document)):
        expected = call(TEXTS, normalize_embeddings=True, show_progress_bar=False)
        assert np.abs(model.encode(TEXTS, role, "") - expected).max() <= 1e-6
    assert model.identity["prompts"] == {"queries": "query: ", "passages": ""}


# Dimensions


def test_first_dimensions_are_cut_before_scaling(xlmr: Path) -> None:
    full = open_(xlmr, normalize=False, pooling="mean").encode(TEXTS, "queries", "")
    cut = open_(xlmr, dim=12, pooling="mean")
    expected = full[:, :12] / np.linalg.norm(full[:, :12], axis=1, keepdims=True)
    found = cut.encode(TEXTS, "queries", "")
    assert found.shape == (len(TEXTS), 12) and found.flags.c_contiguous and np.abs(found - expected).max() <= 1e-6
    raw = open_(xlmr, dim=12, normalize=False, pooling="mean").encode(TEXTS, "queries", "")
    assert np.abs(raw - full[:, :12]).max() <= 1e-6


def test_dimensions_of_a_folder(make_st: Callable[..., Path], sentence_transformers: Any) -> None:
    normalize = sentence_transformers.sentence_transformer.modules.Normalize()
    for folder in (make_st(), make_st(normalize)):
        whole = open_(folder).encode(TEXTS, "passages", "")
        edit(folder / "config_sentence_transformers.json", truncate_dim=12)
        theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
        theirs.max_seq_length = 32
        own, given = open_(folder), open_(folder, dim=12)
        expected = theirs.encode_document(TEXTS, normalize_embeddings=True, show_progress_bar=False)
        assert np.abs(own.encode(TEXTS, "passages", "") - expected).max() <= 1e-6
        assert own.identity["dim"] == 12 and fingerprint(own.identity) == fingerprint(given.identity)
        wider = open_(folder, dim=20)  # than the folder says, but not than its vectors are
        first = whole[:, :20] / np.linalg.norm(whole[:, :20], axis=1, keepdims=True)
        assert np.abs(wider.encode(TEXTS, "passages", "") - first).max() <= 1e-6
        assert open_(folder, dim=32).identity["dim"] is None
        edit(folder / "config_sentence_transformers.json", truncate_dim=99)  # as many as there are, says 6.2
        assert np.abs(open_(folder).encode(TEXTS, "passages", "") - whole).max() == 0


def test_dimensions_that_are_not_there(xlmr: Path, st: Path) -> None:
    for folder in (xlmr, st):
        assert open_(folder, dim=32).identity["dim"] is None  # all: the same model
        with pytest.raises(UsageError, match="dim 33 is more than the 32 dimensions of this model; choose at most 32"):
            open_(folder, dim=33)
        for impossible in (0, -1):
            with pytest.raises(UsageError, match="give at least 1"):
                open_(folder, dim=impossible)
    with pytest.raises(UsageError, match="takes no --dim"):
        load("hash", Options(dim=3))


# Identity


def test_each_field_alone_makes_another_model(xlmr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the list of the design: files are in test_hf.py, code in test_safety.py, batches in test_encode.py."""

    def made(**options: Any) -> dict[str, Any]:
        return open_(xlmr, **{"pooling": "mean", **options}).identity

    def differ(a: Any, b: Any, path: str = "") -> set[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            return {x for key in a.keys() | b.keys() for x in differ(a.get(key), b.get(key), f"{path}/{key}")}
        return set() if a == b else {path}

    base = made()
    alone = {
        "pooling": {"pooling": "cls"},
        "prompts/queries": {"prompt_query": "q"},
        "prompts/passages": {"prompt_passage": "q"},
        "max_length": {"max_length": 9},
        "dim": {"dim": 9},
    }
    for field, option in alone.items():
        other = made(**option)
        assert differ(base, other) == {f"/{field}"} and fingerprint(base) != fingerprint(other), field
    assert differ(base, made(normalize=False)) == {"/normalize", "/similarity"}
    assert differ(base, made(dtype="bfloat16")) == {"/dtype", "/backend"}
    for package in ("torch", "transformers", "tokenizers"):
        with monkeypatch.context() as patch:
            patch.setattr(
                "importlib.metadata.version",
                lambda name, package=package: "0" if name == package else base["versions"].get(name, "1"),
            )
            assert differ(base, made()) == {f"/versions/{package}"}
    folder = Path(shutil.copytree(xlmr, xlmr.parent / "identity"))
    for file, key, value, field in (
        ("config.json", "attn_implementation", "eager", "attention"),
        ("tokenizer_config.json", "truncation_side", "left", "truncation_side"),
    ):
        edit(folder / file, **{key: value})
        other = open_(folder, pooling="mean").identity
        assert differ(base, other) == {f"/{field}", f"/files/{file}"}
        shutil.copy(xlmr / file, folder / file)
    assert not differ(base, open_(folder, pooling="mean").identity)


def test_what_moves_no_number_makes_no_other_model(xlmr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Place, time, order, user, working folder, card, and a permission that is not used."""
    base = fingerprint(open_(xlmr, pooling="mean").identity)
    folder = tmp_path / "sub" / "it"
    folder.mkdir(parents=True)
    for path in sorted(xlmr.iterdir(), reverse=True):
        shutil.copyfile(path, folder / path.name)
        os.utime(folder / path.name, (1, 1))
    (folder / "README.md").write_text("---\nbase_model: BAAI/bge-m3\n---\n")
    monkeypatch.chdir(folder.parent)
    for name in ("USER", "LOGNAME", "HOME", "HOSTNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert fingerprint(open_(Path("it"), pooling="mean", allow_code=True).identity) == base


def test_query_and_passage_of_one_text_are_two_vectors(xlmr: Path, tmp_path: Path) -> None:
    """Through the store: the texts of the passages, asked as queries."""
    task = load_task("mini")
    collection = read(task)
    language = task.languages[0]
    passages = collection.passages[language]
    queries = [
        query._replace(text=passage.text)
        for query, passage in zip(collection.queries[language], passages, strict=False)
    ]
    same = collection._replace(queries={language: queries}, passages={language: passages})
    for prompts, equal in (({"prompt_query": "query: ", "prompt_passage": "passage: "}, False), ({}, True)):
        model = load(f"hf:{xlmr}", Options(device="cpu", pooling="mean", **prompts))
        found = encode(model, same, tmp_path).vectors
        q, p = found["queries"][language], found["passages"][language][: len(queries)]
        assert len(q) and (np.abs(q - p).max(axis=1) <= 1e-6).all() == equal
        if not equal:
            assert np.abs(q - p).max(axis=1).min() > 1e-4
        again = encode(model, same, tmp_path)
        assert again.encoded == 0 and np.array_equal(again.vectors["queries"][language], q)


def test_command_of_a_result() -> None:
    """Without what is in the name already, or is a default."""
    given = {
        "prompt_query": WEB,
        "dim": 64,
        "revision": None,
        "allow_code": False,
        "normalize": None,
        "dtype": "float32",
    }
    line = command_line("run", "hf:a/b@c", "mini", given)
    assert shlex.split(line) == ["xbench", "run", "hf:a/b@c", "-t", "mini", "--prompt-query", WEB, "--dim", "64"]
    assert "--allow-code" in command_line("run", "x", "mini", {"allow_code": True})
