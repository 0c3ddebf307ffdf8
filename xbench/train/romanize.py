"""Other scripts in Latin letters, as part of a tokenizer: so that a name has the same pieces in all of them.

Character by character, by the tables of anyascii: Варшава becomes varshava, Βαρσοβία varsovia, वारसॉ varso, وارسو
wrsw. Not Chinese characters, whose readings would lose what they mean, nor Hangul, and Latin letters stay as they are.
"""

import functools
import io
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What the Unicode names of characters that stay begin with.
STAY = ("LATIN", "CJK", "HANGUL", "COMBINING", "IDEOGRAPHIC", "KANGXI")


def rules() -> Iterator[tuple[str, str]]:
    """A character and the Latin letters, lower-case, that stand for it."""
    from anyascii import anyascii

    for code in range(0x80, 0x10000):
        character = chr(code)
        name = unicodedata.name(character, "")
        if unicodedata.category(character)[0] not in "LM" or not name or name.startswith(STAY):
            continue
        if unicodedata.normalize("NFKC", character) == character:  # others never get here
            yield character, anyascii(character).lower()


@functools.cache
def charsmap() -> bytes:
    """The rules as sentencepiece compiles them and the tokenizers library reads them (`normalizers.Precompiled`)."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rules.tsv"
        lines = (f"{ord(one):X}\t{' '.join(f'{ord(letter):X}' for letter in latin)}\n" for one, latin in rules())
        table.write_text("".join(lines), encoding="ascii")
        model = io.BytesIO()
        # The rules are compiled by its trainer alone, which wants some text.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["ab cd"] * 10),
            model_writer=model,
            model_type="char",
            vocab_size=8,
            normalization_rule_tsv=str(table),
            minloglevel=2,
        )
    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model.getvalue())
    return bytes(proto.normalizer_spec.precompiled_charsmap)
