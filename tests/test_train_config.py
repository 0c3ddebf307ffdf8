"""Training configs: read strictly, one line of error with the cure, the same SHA-256 for the same numbers."""

from pathlib import Path

import pytest

from xbench.errors import DataError, UsageError
from xbench.train.config import Config, read_config, recipes

GOOD = """
[data]
files = ["pairs.jsonl"]
[model]
base = "static"
"""


def read(text: str, folder: Path, **overrides: object) -> Config:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path, {key.replace("__", "."): value for key, value in overrides.items()})


def test_defaults_and_values(tmp_path: Path) -> None:
    config = read(
        GOOD + "vocabulary = 500\n[sampling.kinds]\nqa = 1\nbitext = 0.5\n[training]\nlearning_rate = 1\n", tmp_path
    )
    assert config.data.files == ("pairs.jsonl",) and config.model.vocabulary == 500
    assert dict(config.sampling.kinds) == {"bitext": 0.5, "qa": 1.0}
    assert type(config.training.learning_rate) is float
    assert config.sampling.mode == "hybrid" and config.sampling.alpha == 0.5


def test_every_recipe_is_one() -> None:
    assert {"static", "tiny", "paper-xlmr", "paper-labse"} <= set(recipes())
    for name in recipes():
        read_config(name)


def test_sha256_is_of_what_decides_a_number(tmp_path: Path) -> None:
    one = read(GOOD, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    same = read(GOOD + "# a comment\n[sampling]\nmode = 'hybrid'\n", tmp_path / "elsewhere")
    assert one.sha256 == same.sha256, "a default that is written out, a comment, a folder"
    others = {
        read(GOOD, tmp_path, **{key: value}).sha256
        for key, value in [
            ("sampling__mode", "x-y"),
            ("training__seed", 1),
            ("model__dim", 128),
            ("data__without", ["x"]),
            ("loss__temperature", 0.1),
        ]
    }
    assert len(others | {one.sha256}) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\nfiles = [", "not TOML"),
        ("[data]\nfiles = []\n[model]\nbase = 'static'", r"\[data\] files: empty"),
        ("[model]\nbase = 'static'", r"\[data\].*'files'"),
        ("[data]\nfiles = ['a']", r"\[model\].*'base'"),
        (GOOD + "size = 3", r"\[model\] size: no such key; known: base, "),
        (GOOD + "[modle]\na = 1", r"\[modle\]: no such part; known: data, model"),
        (GOOD + "dim = '3'", r"\[model\] dim: found '3', expected int"),
        (GOOD + "dim = true", r"\[model\] dim: found True, expected int"),
        (GOOD + "dim = 0", r"\[model\]: expected sizes of at least 1"),
        (GOOD + "dropout = 1.0", r"\[model\] dropout: found 1.0"),
        ("[data]\nfiles = 'a'\n[model]\nbase = 'static'", r"\[data\] files: found str, expected a list"),
        ("[data]\nfiles = [1]\n[model]\nbase = 'static'", r"\[data\] files: found 1, expected str"),
        ("data = 1\n[model]\nbase = 'static'", "data: found int, expected a table"),
        (
            "[data]\nfiles=['a']\nholdout = 0.6\n[model]\nbase = 'static'",
            r"\[data\] holdout: found 0.6, expected 0 to 0.5",
        ),
        ("[data]\nfiles=['a']\nlimits = {de=0}\n[model]\nbase = 'static'", r"\[data\] limits: expected at least 1"),
        ("[data]\nfiles=['a']\ncontaminated = 'x'\n[model]\nbase = 'static'", "expected refuse or drop"),
        ("[data]\nfiles=['a']\n[model]\nbase = 'tiny'\ndim = 30", "dim: 30 is no multiple of 4 heads"),
        (GOOD + "[sampling]\nmode = 'xx'", "mode: found 'xx', expected one of x-x, x-y, hybrid"),
        (GOOD + "[sampling]\nalpha = 1.5", "alpha: found 1.5, expected 0 to 1"),
        (GOOD + "[sampling]\nalpha = nan", "alpha: found nan"),
        (GOOD + "[sampling]\nkinds = {quiz = 1.0}", "kinds: expected some of qa, ctx, bitext, term"),
        (GOOD + "[sampling]\nkinds = {qa = -1.0}", "expected numbers of at least 0"),
        (GOOD + "[sampling]\nfactors = {a = inf}", "expected numbers of at least 0"),
        (GOOD + "[sampling]\nsize_exponent = nan", r"exponent: found \(nan, 0.0\), expected 0 to 10"),
        (GOOD + "[sampling]\nlanguage_exponent = 1e9", "expected 0 to 10"),
        (GOOD + "[loss]\ntemperature = 2.0\nlearn_temperature = true", "to be learned, expected 0.01 to 1"),
        (GOOD + "[training]\nseed = 18446744073709551616", "seed: found 18446744073709551616, expected below 2"),
        (GOOD + "[loss]\ntemperature = 0.0", "temperature: found 0.0, expected above 0"),
        (GOOD + "[training]\nsteps = 0", "expected at least 1 step"),
        (GOOD + "[training]\ndtype = 'float16'", "dtype: found 'float16'"),
        (GOOD + "[training]\nlearning_rate = 0.0", "learning_rate: expected above 0"),
        (GOOD + "[training]\nseed = -1", "expected numbers of at least 0"),
        (GOOD + "[training]\npatience = 2", "patience: needs validate_every"),
    ],
)
def test_errors(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(text, tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path / "config.toml") in str(error.value)


def test_overrides(tmp_path: Path) -> None:
    assert read(GOOD, tmp_path, sampling__mode="x-x").sampling.mode == "x-x"
    for key, message in (
        ("mode", "no such key; expected data.KEY"),
        ("sampling.mood", r"unknown key of \[sampling\].*mode"),
        ("sample.mode", "no such key"),
    ):
        with pytest.raises(UsageError, match=message):
            read_config(tmp_path / "config.toml", {key: "x-x"})
    with pytest.raises(DataError, match=r"\[training\] seed: found 'x', expected int"):
        read(GOOD, tmp_path, training__seed="x")


def test_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown training config 'statik'.*static"):
        read_config("statik")
    with pytest.raises(UsageError, match="no such file; expected a training config"):
        read_config(tmp_path / "none.toml")
