"""Models from scratch, with a tokenizer trained on the training text: `static` and `tiny`."""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xbench.errors import DataError, IntegrityError
from xbench.models.checkpoint import quiet
from xbench.storage import storage
from xbench.train.config import Model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

PAD, UNKNOWN = "[PAD]", "[UNK]"
# Pairs of a language whose texts a tokenizer is trained on: so many of each make pieces for all of them.
TOKENIZER_PAIRS = 20_000
# Characters that are pieces by themselves: beyond them come Chinese ones that occur a few times.
ALPHABET = 6_000
# Length of an average embedding of `static` at the start: small against what Adam's steps add up to.
START = 0.1


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> "Tokenizer":
    """Byte-pair encoding (Sennrich et al. 2016) of lower-cased NFKC text: the same texts give the same bytes.

    Not Unigram: the tokenizers library's trainer of it gives another order and other scores at every call, and
    takes ten times as long.

    Raises:
        DataError: no text, or so little that there are no pieces to learn.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace()])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, UNKNOWN],
        limit_alphabet=min(ALPHABET, vocabulary // 2),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < 4:
        raise DataError("the training text has no words to make a tokenizer of")
    return tokenizer


def static_model(config: Model, tokenizer: "Tokenizer") -> "SentenceTransformer":
    """Token embeddings averaged; they begin at random, with an expected length of START."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    weights = torch.randn(tokenizer.get_vocab_size(), config.dim) * START / math.sqrt(config.dim)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")


def tiny_model(config: Model, tokenizer: "Tokenizer") -> "SentenceTransformer":
    """A small BERT, its hidden states pooled."""
    from safetensors.torch import save_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    wrapped = fast(tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, model_max_length=config.max_length)
    bert = BertModel(
        BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=config.dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.dim,
            max_position_embeddings=config.max_length,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            pad_token_id=wrapped.pad_token_id,
        ),
        add_pooling_layer=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        # Not by save_pretrained, which writes nothing in any process but the first.
        bert.config.save_pretrained(folder)
        save_file(bert.state_dict(), Path(folder) / "model.safetensors", metadata={"format": "pt"})
        wrapped.save_pretrained(folder)
        with quiet:
            module = Transformer(folder, model_kwargs={"add_pooling_layer": False, "local_files_only": True})
    module.max_seq_length = config.max_length
    return SentenceTransformer(modules=[module, Pooling(config.dim, config.pooling), Normalize()], device="cpu")


def load_tokenizer(path: Path) -> "Tokenizer":
    """A tokenizer from the file that it was saved to.

    Raises:
        IntegrityError: the file is none.
        StorageError: it cannot be read.
    """
    from tokenizers import Tokenizer

    with storage(path, "read"):
        content = path.read_bytes()
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing more special
        raise IntegrityError(f"{path} is damaged: {error}; delete it, and it is made again") from error
