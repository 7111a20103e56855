"""Whether a release is for this board, and for what is installed on it."""

from __future__ import annotations

from collections.abc import Mapping

from edgeinfer.board import Board
from edgeinfer.delegates import runtime_versions
from edgeinfer.packages import installed_version
from edgeinfer.updates.manifest import Manifest


def reason_against(manifest: Manifest, board: Board, runtimes: Mapping[str, str] | None = None) -> str | None:
    """Why it cannot run here, in words; None where nothing speaks against it. runtimes: those that are installed."""
    if manifest.boards and board.profile.name not in manifest.boards:
        return f"it is for {', '.join(manifest.boards)}, and this board is {board.profile.name}"
    installed = runtime_versions() if runtimes is None else runtimes
    if manifest.runtimes and not set(manifest.runtimes) & set(installed):
        return f"it needs {' or '.join(manifest.runtimes)}, and here is {', '.join(sorted(installed)) or 'no runtime'}"
    for package, least in sorted(manifest.requires.items()):
        found = installed_version(package)
        if found is None or numbers_of(found) < numbers_of(least.removeprefix(">=")):
            return f"it needs {package} {least}, and here is {found or 'none'}"
    return None


def numbers_of(text: str) -> tuple[int, ...]:
    """Of a version, up to what is no number, without zeros at its end: 2.10.0rc1 -> (2, 10)."""
    found: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
        if digits != part:
            break
    while found and not found[-1]:
        found.pop()
    return tuple(found)
