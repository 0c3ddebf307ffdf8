"""Known families of checkpoints: the prompts, pooling and scaling their authors ask for, each with its source.

A table, not a registry: it fills in what a checkpoint does not say itself, and stops a run that would leave out
a prompt. What the checkpoint or an option says goes first.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from xbench.errors import UsageError
from xbench.models import Options
from xbench.progress import log
from xbench.storage import storage
from xbench.strictjson import read_json

INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
# Names under which the prompt of a role is looked for, in this order, in a folder of sentence-transformers.
PROMPT_NAMES = {"query": ("query",), "passage": ("document", "passage", "corpus")}


class Family(NamedTuple):
    """What the authors of a family of checkpoints ask for."""

    names: str
    """Regular expression for the whole name after OWNER/, in any case."""
    pooling: Literal["mean", "cls", "last", "modules"] | None
    """`modules`: it takes more than a pooling, so a folder of sentence-transformers; None: nothing is said."""
    similarity: Literal["cosine", "dot"]
    query: str
    passage: str
    """Put before each query and before each passage."""
    code: bool
    """Its authors' instructions run Python files of the checkpoint (`trust_remote_code`)."""
    source: str
    """A name on the hub: that model's card."""

    @property
    def url(self) -> str:
        """Where it is written."""
        return f"https://huggingface.co/{self.source}" if re.fullmatch(r"[\w.-]+/[\w.-]+", self.source) else self.source


CONTRIEVER = "https://github.com/facebookresearch/contriever"
GEMMA = "https://ai.google.dev/gemma/docs/embeddinggemma/model_card"
M3 = "https://github.com/FlagOpen/FlagEmbedding, inference/embedder/encoder_only"
# `code`, and the prompts of jina, were also checked against MTEB 2.26 (mteb/models/model_implementations), and
# the means of E5 against microsoft/unilm (e5/model_config.py).
FAMILIES = (
    # Of the first two, the cards say nothing on retrieval: XTREME (third_party/evaluate_retrieval.py) takes the mean
    # of a middle layer, MTEB that of the last, as sentence-transformers does by default.
    Family("xlm-roberta-(base|large)", None, "cosine", "", "", False, "FacebookAI/xlm-roberta-base"),
    Family("bert-base-multilingual-cased", None, "cosine", "", "", False, "google-bert/bert-base-multilingual-cased"),
    Family("labse", "modules", "cosine", "", "", False, "sentence-transformers/LaBSE"),  # a dense layer follows
    Family(
        "multilingual-e5-(small|base|large)", "mean", "cosine", "query: ", "passage: ", False,
        "intfloat/multilingual-e5-base",
    ),
    Family(
        "multilingual-e5-large-instruct", "mean", "cosine", f"{INSTRUCT} ", "", False,
        "intfloat/multilingual-e5-large-instruct",
    ),
    Family("bge-m3", "cls", "cosine", "", "", False, M3),
    Family("gte-multilingual-base", "cls", "cosine", "", "", True, "Alibaba-NLP/gte-multilingual-base"),
    Family(r"qwen3-embedding-(0\.6|4|8)b", "last", "cosine", INSTRUCT, "", False, "Qwen/Qwen3-Embedding-0.6B"),
    Family(
        "jina-embeddings-v3", "mean", "cosine", "Represent the query for retrieving evidence documents: ",
        "Represent the document for retrieval: ", True, "jinaai/jina-embeddings-v3",
    ),
    Family(
        "jina-embeddings-v5-text-((small|nano)|nano-retrieval)", "last", "cosine", "Query: ", "Document: ", True,
        "jinaai/jina-embeddings-v5-text-small",
    ),
    Family(
        "jina-embeddings-v5-text-small-retrieval", "last", "cosine", "Query: ", "Document: ", False,
        "jinaai/jina-embeddings-v5-text-small-retrieval",
    ),
    Family(
        r"snowflake-arctic-embed-l-v2\.0", "cls", "cosine", "query: ", "", False,
        "Snowflake/snowflake-arctic-embed-l-v2.0",
    ),
    Family(
        r"snowflake-arctic-embed-m-v2\.0", "cls", "cosine", "query: ", "", True,
        "Snowflake/snowflake-arctic-embed-m-v2.0",
    ),
    Family(
        r"nomic-embed-text-v1\.5", "mean", "cosine", "search_query: ", "search_document: ", True,
        "nomic-ai/nomic-embed-text-v1.5",
    ),
    Family(
        "nomic-embed-text-v2-moe", "mean", "cosine", "search_query: ", "search_document: ", True,
        "nomic-ai/nomic-embed-text-v2-moe",
    ),
    Family(  # two dense layers follow
        "embeddinggemma-300m", "modules", "cosine", "task: search result | query: ", "title: none | text: ", False,
        GEMMA,
    ),
    Family("mcontriever(-msmarco)?", "mean", "dot", "", "", False, CONTRIEVER),
)  # fmt: skip


def by_name(name: str) -> Family | None:
    """The family of a name such as `intfloat/multilingual-e5-base`, or of a folder so called."""
    last = name.rstrip("/").rsplit("/", 1)[-1]
    return next((family for family in FAMILIES if re.fullmatch(family.names, last, re.IGNORECASE)), None)


def recognise(name: str, files: Mapping[str, Path]) -> Family | None:
    """The family of a checkpoint: by its name, by the one in its config, by the base model its README.md tells.

    Args:
        name: of the folder or on the hub, without revision.
        files: of the checkpoint, by name; checked by `safety`.
    """
    configs = (_object(files, file) for file in ("config.json", "0_Transformer/config.json"))
    names = [name, *(str(config.get("_name_or_path", "")) for config in configs)]
    names += _base_models(files["README.md"]) if "README.md" in files else []
    return next((family for family in map(by_name, names) if family), None)


def _base_models(readme: Path) -> list[str]:
    """`base_model` in the front matter, one name or a list; by hand, since YAML needs a library and can be hostile."""
    with storage(readme, "read"), readme.open(encoding="utf-8", errors="replace") as file:
        text = file.read(1 << 16)
    front = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text.replace("\r\n", "\n"), re.DOTALL)
    block = re.search(r"^base_model:[ \t]*(.*(?:\n[ \t]*-.*)*)", front[1] if front else "", re.MULTILINE)
    return re.findall(r"[\w.-]+/[\w.-]+", block[1]) if block else []


def complete(options: Options, family: Family | None, files: Mapping[str, Path], where: str) -> Options:
    """The options with what the family adds to them; a folder of sentence-transformers keeps its own modules.

    Raises:
        UsageError: a prompt the family asks for is set nowhere, or a plain checkpoint needs more than a pooling.
    """
    modules = "modules.json" in files
    if family is None:
        if not modules and options.pooling is None:
            log.info("%s does not say its pooling: the mean is assumed (--pooling)", where)
        return options
    config = _object(files, "config_sentence_transformers.json") if modules else {}
    prompts = config.get("prompts")
    own = prompts if isinstance(prompts, dict) else {}
    missing = [
        f"--prompt-{side} {_quoted(wanted)}"
        for side, wanted, given in (
            ("query", family.query, options.prompt_query),
            ("passage", family.passage, options.prompt_passage),
        )
        if wanted and given is None and not any(own.get(name) for name in PROMPT_NAMES[side])
    ]
    if missing:
        raise UsageError(f'{where} is made for prompts ({family.url}): add {" ".join(missing)} (or "" for none)')
    normalize = options.normalize
    # A module that scales, or a similarity that the folder names, goes first.
    if normalize is None and family.similarity == "dot" and not config.get("similarity_fn_name") and not _scales(files):
        normalize = False
    if modules or options.pooling:
        return replace(options, normalize=normalize)
    if family.pooling == "modules":
        cure = "take a folder of sentence-transformers (modules.json), or say --pooling"
        raise UsageError(f"{where} needs more than a pooling of its last layer ({family.url}): {cure}")
    if family.pooling is None:
        log.info("%s: %s tells no pooling: the mean is assumed (--pooling)", where, family.url)
    return replace(options, normalize=normalize, pooling=family.pooling)


def _quoted(text: str) -> str:
    """As a shell takes it, on one line."""
    return f'"{text}"' if "\n" not in text else "$'" + text.replace("\n", "\\n") + "'"


def _object(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    found = read_json(files[name]) if name in files else None
    return found if isinstance(found, dict) else {}


def _scales(files: Mapping[str, Path]) -> bool:
    found = read_json(files["modules.json"]) if "modules.json" in files else None
    types = [str(module.get("type")) for module in found if isinstance(module, dict)] if isinstance(found, list) else []
    return any(name.endswith(".Normalize") for name in types)
