"""Which Python packages are installed, and in which version."""

from __future__ import annotations

import contextlib
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Folders = tuple[tuple[str, int], ...]


def installed_version(package: str) -> str | None:
    """As in `2.3.0`; None where it is not installed, or where what is left of it does not say.

    Looked up anew only where something was installed or removed since: each look reads all folders, and importlib
    keeps what it saw, while a device that comes and goes asks for weeks.
    """
    return _version(package, package_folders())


def package_folders() -> Folders:
    """Where packages lie, and when each folder was last written to: it differs once one is installed or removed.

    Not the working folder: results are written there, and nobody installs packages into it.
    """
    found = []
    here: Path | None = None
    with contextlib.suppress(OSError):  # Somebody may have removed it.
        here = Path.cwd()
    for folder in sys.path:
        if folder and (path := Path(folder)) != here:
            with contextlib.suppress(OSError):
                found.append((folder, path.stat().st_mtime_ns))
    return tuple(found)


@lru_cache(maxsize=64)
def _version(package: str, _folders: Folders) -> str | None:
    try:
        # To an empty name Python 3.10 gives the version of whatever comes first.
        return version(package) if package else None
    except PackageNotFoundError:
        return None
