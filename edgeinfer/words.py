"""What to say when a word is not known."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`, or None where none is near."""
    import difflib  # Of no use where all words are known.

    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """One line for an unknown word: the nearest known one, else all of them."""
    words = sorted(known)
    close = nearest(word, words)
    advice = f"did you mean {close!r}?" if close else f"known: {', '.join(words)}"
    return f"unknown {what} {word!r}: {advice}"
