"""The model in training: the same token ids and vectors as whoever loads it gets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from xbench.errors import UsageError
from xbench.train.config import Model
from xbench.train.encoder import Trainee

TEXTS = ["", "one", "Wo liegt Köln? " * 3, "ラーメン a b c " * 40, "x" * 300]


@pytest.mark.parametrize("length", [8, 128])
def test_token_ids_are_the_tokenizers_own(minilm: Path, length: int) -> None:
    model = SentenceTransformer(str(minilm), device="cpu")
    trainee = Trainee(model, Model(base="x", max_length=length, prompt_query="query: ", prompt_passage="p "))
    for role, prompt in (("queries", "query: "), ("passages", "p ")):
        wanted = model.tokenizer([prompt + text for text in TEXTS], truncation=True, max_length=length)["input_ids"]
        assert trainee.tokenize(TEXTS, role) == wanted  # type: ignore[arg-type]


def test_a_tokenizer_stays_as_it_is(minilm: Path) -> None:
    """It is saved with the model, also after a run whose texts were in the cache, where nothing was tokenized."""
    for cut, pad in ((False, False), (True, False), (True, True)):
        trainee = Trainee(SentenceTransformer(str(minilm), device="cpu"), Model("minilm", max_length=8))
        backend = trainee.module.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        if cut:
            backend.enable_truncation(50, stride=2, strategy="only_first", direction="left")
        if pad:
            backend.enable_padding(pad_id=3, pad_token="[X]", length=40, direction="left")
        before = backend.to_str()
        assert max(len(ids) for ids in trainee.tokenize(TEXTS, "queries")) == 8
        assert backend.to_str() == before


def test_vectors_are_its_own(minilm: Path) -> None:
    model = SentenceTransformer(str(minilm), device="cpu")
    trainee = Trainee(model, Model(base="x", max_length=64, prompt_query="query: "))
    model.eval()
    with torch.no_grad():
        found = trainee.encode([np.array(ids, np.int32) for ids in trainee.tokenize(TEXTS, "queries")])
    assert found.dtype == torch.float32
    wanted = SentenceTransformer(str(minilm), device="cpu")
    wanted.max_seq_length = 64
    np.testing.assert_allclose(found.numpy(), wanted.encode(TEXTS, prompt="query: "), atol=2e-6)


def test_a_key_for_all_that_decides_token_ids(minilm: Path) -> None:
    def model() -> SentenceTransformer:
        return SentenceTransformer(str(minilm), device="cpu")

    keys = [
        str(Trainee(model(), Model(base="x", **given)).key)  # type: ignore[arg-type]
        for given in ({}, {"max_length": 64}, {"prompt_query": "q"}, {"prompt_passage": "q"}, {"dropout": 0.5})
    ]
    assert len(set(keys)) == 4 and keys[0] == keys[-1]
    left = model()
    left.tokenizer.truncation_side = "left"
    assert str(Trainee(left, Model(base="x")).key) not in keys


@pytest.mark.parametrize(("given", "kept"), [({}, ("ask: ", "say: ")), ({"prompt_passage": "p "}, ("ask: ", "p "))])
def test_prompts_of_the_checkpoint_stay(
    given: dict[str, str], kept: tuple[str, str], minilm: Path, tmp_path: Path
) -> None:
    """Under whatever name its folder has them; those of other uses too."""
    model = SentenceTransformer(str(minilm), device="cpu", prompts={"query": "ask: ", "passage": "say: ", "sts": "s "})
    trainee = Trainee(model, Model(base="x", max_length=32, **given))  # type: ignore[arg-type]
    assert tuple(trainee.prompts.values()) == kept
    trainee.save(tmp_path / "model")
    saved = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    for prompt, encode in zip(kept, (saved.encode_query, saved.encode_document), strict=True):
        np.testing.assert_allclose(encode("some text"), saved.encode(prompt + "some text", prompt=""), atol=1e-6)
    assert saved.prompts["sts"] == "s "


def test_too_long(minilm: Path) -> None:
    model = SentenceTransformer(str(minilm), device="cpu")
    with pytest.raises(UsageError, match=r"max_length 1000 is not possible with this model; choose from \d+ to 512"):
        Trainee(model, Model(base="x", max_length=1000))


def test_a_static_model_drops_tokens_in_training_alone(static: Callable[..., Trainee]) -> None:
    trainee = static(dropout=0.5)
    ids = [np.arange(2, 42, dtype=np.int32), np.array([5, 6, 7], np.int32), np.array([], np.int32)]
    trainee.module.eval()
    first, again = trainee.encode(ids), trainee.encode(ids)
    assert torch.equal(first, again)
    (table,) = trainee.module.parameters()
    for vector, text in zip(first, ids[:2], strict=False):
        torch.testing.assert_close(vector, table[torch.from_numpy(text).long()].mean(dim=0))
    assert not first[2].any()
    trainee.module.train()
    torch.manual_seed(0)
    one, other = trainee.encode(ids), trainee.encode(ids)
    assert not torch.equal(one[0], other[0]), "of a long text, half of the tokens"
    torch.testing.assert_close(one[1:], first[1:])


def test_a_static_model_is_cut_in_training_alone(static: Callable[..., Trainee], tmp_path: Path) -> None:
    trainee = static(max_length=2)
    texts = ["word1 other2 word3", "word1 other2 word3 word44 other55 word66"]
    assert [len(ids) for ids in trainee.tokenize(texts, "queries")] == [2, 2]
    trainee.save(tmp_path)
    saved = SentenceTransformer(str(tmp_path), device="cpu")
    (table,) = trainee.module.parameters()
    for vector, text in zip(saved.encode(texts), texts, strict=True):
        ids = saved.tokenizer.encode(text, add_special_tokens=False).ids
        assert len(ids) > 2
        np.testing.assert_allclose(vector, table[ids].mean(dim=0).detach(), atol=1e-6)


@pytest.fixture
def static() -> Callable[..., Trainee]:
    """A static model of 50 tokens."""
    from xbench.train.scratch import static_model, train_tokenizer

    tokenizer = train_tokenizer([f"word{i} other{i}" for i in range(100)], 50)

    def made(**given: float) -> Trainee:
        config = Model(base="static", dim=8, **given)  # type: ignore[arg-type]
        return Trainee(static_model(config, tokenizer), config)

    return made


def test_rare_tokens_begin_longer(static: Callable[..., Trainee]) -> None:
    trainee = static()
    (table,) = trainee.module.parameters()
    before = table.detach().clone()
    counts = np.arange(1, len(table) + 1)
    trainee.weigh(counts)
    rarity = np.log(counts.sum() / (counts + 1))
    np.testing.assert_allclose((table / before)[:, 0].detach().numpy(), rarity / rarity.mean(), rtol=1e-5)
