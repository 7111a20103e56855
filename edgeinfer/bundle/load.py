from __future__ import annotations
from pathlib import Path
from edgeinfer.bundle.facts import Bundle, Overrides


def find_bundle(word: str) -> Path:
    raise NotImplementedError


def load_bundle(word: str, overrides: Overrides) -> Bundle:
    raise NotImplementedError
