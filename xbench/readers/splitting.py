"""Sentences of a text by the rules of Unicode (UAX #29), as ICU has them."""

from xbench.errors import UsageError


def sentences(text: str, rule: str) -> list[tuple[int, int]]:
    """The (start, end) offsets of the sentences, white space around them left out.

    Sentence boundaries of UAX #29 in ICU's root locale, without suppressions: `Dr. Smith` and `1918.[1]` are cut.

    Args:
        text: what to cut.
        rule: ICU and its major version, `ICU 78`: another one could cut otherwise.

    Raises:
        UsageError: ICU is missing, or another version of it is installed.
    """
    try:
        import icu4py
        from icu4py.breakers import SentenceBreaker
    except ImportError as error:
        raise UsageError(f"sentences need {rule}: pip install 'xbench[sentences]'") from error
    found = f"ICU {icu4py.icu_version.partition('.')[0]}"
    if found != rule:
        raise UsageError(f"sentences are those of {rule}, found {found}: install the icu4py of constraints.txt")
    spans: list[tuple[int, int]] = []
    start = 0
    for part in SentenceBreaker(text, "und"):
        low, high = start + len(part) - len(part.lstrip()), start + len(part.rstrip())
        start += len(part)
        if low < high:
            spans.append((low, high))
    return spans
