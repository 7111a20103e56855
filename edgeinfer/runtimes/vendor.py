"""What vendors' exceptions say, as one line."""

from __future__ import annotations

_MAX_CHARACTERS = 300


def first_line(error: BaseException) -> str:
    """The first line that says something, shortened; the exception's name where there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    text = next((line for line in lines if line), type(error).__name__)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"
