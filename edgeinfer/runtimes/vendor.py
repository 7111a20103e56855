"""What vendors' exceptions say, as one line."""

from __future__ import annotations

import re

_MAX_CHARACTERS = 200

# TensorFlow Lite strings its messages together without a space.
_NEXT_MESSAGE = re.compile(r"(?<=[.)])(?=[A-Z][a-z])")


def first_line(error: BaseException) -> str:
    """The first message of an exception, shortened; the exception's name where there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    text = _NEXT_MESSAGE.split(next((line for line in lines if line), type(error).__name__))[0]
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"
