"""Texts to terms by language: Lucene's analyzer, and ICU's words where neither Lucene nor Java can tell them."""

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

from xbench.errors import DataError
from xbench.models.jvm import java_class, java_errors
from xbench.progress import log

LUCENE = "org.apache.lucene.analysis."
FIELD = "contents"  # of an index; Anserini's name
ENGLISH = "io.anserini.analysis.DefaultEnglishAnalyzer"
# For a language that is not here: words by Unicode's rules, lower case, neither stemmed nor stopped. Never English.
OTHER = "standard.StandardAnalyzer"
# Classes below LUCENE. Where Anserini has a choice (its AnalyzerMap), it is taken, so that numbers compare.
ANALYZERS = {
    "ar": "ar.ArabicAnalyzer",
    "bg": "bg.BulgarianAnalyzer",
    "bn": "bn.BengaliAnalyzer",
    "ca": "ca.CatalanAnalyzer",
    "ckb": "ckb.SoraniAnalyzer",
    "cs": "cz.CzechAnalyzer",
    "da": "da.DanishAnalyzer",
    "de": "de.GermanAnalyzer",
    "el": "el.GreekAnalyzer",  # not in AnalyzerMap, which then takes English: that finds a quarter of the passages
    "en": ENGLISH,  # Porter's stemmer, 33 stop words
    "es": "es.SpanishAnalyzer",
    "et": "et.EstonianAnalyzer",
    "eu": "eu.BasqueAnalyzer",
    "fa": "fa.PersianAnalyzer",
    "fi": "fi.FinnishAnalyzer",
    "fr": "fr.FrenchAnalyzer",
    "ga": "ga.IrishAnalyzer",
    "gl": "gl.GalicianAnalyzer",
    "ha": "core.WhitespaceAnalyzer",  # Anserini's choice for Hausa, Somali, Swahili and Yoruba: case is kept
    "hi": "hi.HindiAnalyzer",
    "hu": "hu.HungarianAnalyzer",
    "hy": "hy.ArmenianAnalyzer",
    "id": "id.IndonesianAnalyzer",
    "it": "it.ItalianAnalyzer",
    "ja": "ja.JapaneseAnalyzer",
    "ko": "cjk.CJKAnalyzer",  # pairs of characters
    "lt": "lt.LithuanianAnalyzer",
    "lv": "lv.LatvianAnalyzer",
    "nb": "no.NorwegianAnalyzer",
    "ne": "ne.NepaliAnalyzer",
    "nl": "nl.DutchAnalyzer",
    "no": "no.NorwegianAnalyzer",
    "pl": "morfologik.MorfologikAnalyzer",
    "pt": "pt.PortugueseAnalyzer",
    "ro": "ro.RomanianAnalyzer",
    "ru": "ru.RussianAnalyzer",
    "so": "core.WhitespaceAnalyzer",
    "sr": "sr.SerbianAnalyzer",
    "sv": "sv.SwedishAnalyzer",
    "sw": "core.WhitespaceAnalyzer",
    "ta": "ta.TamilAnalyzer",
    "te": "te.TeluguAnalyzer",
    "th": "th.ThaiAnalyzer",
    "tr": "tr.TurkishAnalyzer",
    "uk": "uk.UkrainianMorfologikAnalyzer",
    "vi": "standard.StandardAnalyzer",  # nothing of its own in Lucene: syllables, lower case; not English by default
    "yo": "core.WhitespaceAnalyzer",
    "zh": "cjk.CJKAnalyzer",
}
# Written without spaces, and one endless word to StandardAnalyzer: ICU's dictionaries first, then the filters of
# Lucene's ThaiAnalyzer. Thai itself only where Java has no dictionary for it, as the packaged one.
Filter = tuple[str, dict[str, str]]
FILTERS: list[Filter] = [("lowercase", {}), ("decimalDigit", {})]
THAI_STOP: Filter = ("stop", {"words": "org/apache/lucene/analysis/th/stopwords.txt"})
UNSPACED = {"km": FILTERS, "lo": FILTERS, "my": FILTERS, "th": [*FILTERS, THAI_STOP]}
# FLORES-200's codes, as Belebele has them, in the usual script of the language; hin_Latn and the like have none.
FLORES = {
    **{"arb_Arab": "ar", "bul_Cyrl": "bg", "ben_Beng": "bn", "cat_Latn": "ca", "ckb_Arab": "ckb"},
    **{"ces_Latn": "cs", "dan_Latn": "da", "deu_Latn": "de", "ell_Grek": "el", "eng_Latn": "en"},
    **{"spa_Latn": "es", "est_Latn": "et", "eus_Latn": "eu", "pes_Arab": "fa", "fin_Latn": "fi"},
    **{"fra_Latn": "fr", "hau_Latn": "ha", "hin_Deva": "hi", "hun_Latn": "hu", "hye_Armn": "hy"},
    **{"ind_Latn": "id", "ita_Latn": "it", "jpn_Jpan": "ja", "kor_Hang": "ko", "lit_Latn": "lt"},
    **{"lvs_Latn": "lv", "nob_Latn": "nb", "npi_Deva": "ne", "nld_Latn": "nl", "pol_Latn": "pl"},
    **{"por_Latn": "pt", "ron_Latn": "ro", "rus_Cyrl": "ru", "som_Latn": "so", "srp_Cyrl": "sr"},
    **{"swe_Latn": "sv", "swh_Latn": "sw", "tam_Taml": "ta", "tel_Telu": "te", "tha_Thai": "th"},
    **{"tur_Latn": "tr", "ukr_Cyrl": "uk", "vie_Latn": "vi", "yor_Latn": "yo", "zho_Hans": "zh"},
    **{"zho_Hant": "zh", "khm_Khmr": "km", "lao_Laoo": "lo", "mya_Mymr": "my"},
}


class Analyzers:
    """An analyzer for every language, made when it is first asked for; Java runs."""

    def __init__(self) -> None:
        """Learn what this Java can do, and with it all that decides the terms (`identity`)."""
        self._made: dict[str, Any] = {}
        self._analyze = java_class("io.anserini.analysis.AnalyzerUtils").analyze
        self._length = java_class(LUCENE + "miscellaneous.LengthFilter")
        self._thai = bool(java_class(LUCENE + "th.ThaiTokenizer").DBBI_AVAILABLE)
        icu = f"icu4py {importlib.metadata.version('icu4py')}"
        java = f"java.text.BreakIterator {java_class('java.lang.Runtime').version().feature()}"
        self.identity: dict[str, object] = {
            "lucene": str(java_class("org.apache.lucene.util.Version").LATEST.toString()),
            "analyzers": ANALYZERS,
            "other": OTHER,
            "codes": FLORES,
            "words": {language: java if language == "th" and self._thai else icu for language in UNSPACED},
        }

    def terms(self, texts: Sequence[str], language: str) -> list[list[str]]:
        """The terms of each text, in its order and with repeats.

        Raises:
            DataError: a text is no Unicode.
        """
        known, words = self._known(language)
        if known not in self._made:
            self._made[known] = self._make(language)
        analyzer, analyze = self._made[known], self._analyze
        try:
            with java_errors(f"analysing {language}"):
                return [analyze(analyzer, _words(text, known) if words else text).toArray() for text in texts]
        except UnicodeEncodeError as error:
            raise DataError(f"a text of {language} is no Unicode: {error}; repair the source") from error

    def streams(self, language: str) -> Callable[[str], Any]:
        """What makes of a text the Lucene token stream of its `terms`; to be used up before the next is made.

        It raises a UnicodeEncodeError on a text that is no Unicode.
        """
        known, words = self._known(language)
        analyzer, length = self._make(language), self._length  # of its own: an interrupted stream leaves it unusable
        longest = (1 << 31) - 1
        # Terms that normalization left empty are no terms, as in Anserini's `analyze`.
        return lambda text: length(analyzer.tokenStream(FIELD, _words(text, known) if words else text), 1, longest)

    def _known(self, language: str) -> tuple[str, bool]:
        """The language in the tables, and whether ICU tells its words."""
        base = FLORES.get(language) or language.partition("-")[0]  # zh-Hant as zh, unless it is in the table itself
        known = language if language in ANALYZERS or language in UNSPACED else base
        return known, known in UNSPACED and not (known == "th" and self._thai)

    def _make(self, language: str) -> Any:
        known, words = self._known(language)
        return self._filters(known) if words else self._analyzer(known)

    def _analyzer(self, language: str) -> Any:
        if language not in ANALYZERS:
            log.info("bm25: Lucene has no analyzer for %s; words are neither stemmed nor stopped (%s)", language, OTHER)
        name = ANALYZERS.get(language, OTHER)
        return java_class(ENGLISH).newDefaultInstance() if name == ENGLISH else java_class(LUCENE + name)()

    def _filters(self, language: str) -> Any:
        log.info("bm25: words of %s are told by ICU", language)
        table = java_class("java.util.HashMap")
        builder = java_class(LUCENE + "custom.CustomAnalyzer").builder().withTokenizer("whitespace", table())
        for name, values in UNSPACED[language]:
            arguments = table()
            for key, value in values.items():
                arguments.put(key, value)
            builder = builder.addTokenFilter(name, arguments)
        return builder.build()


def _words(text: str, language: str) -> str:
    """The words of a text, between spaces; like Lucene's ThaiTokenizer, only what begins with a letter or digit."""
    from icu4py.breakers import WordBreaker

    return " ".join(word for word in WordBreaker(text, language) if word[0].isalnum())
