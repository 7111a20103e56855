"""How long to wait before beginning anew, after ends that nobody wanted: a crash loop must not wear out the flash."""

from __future__ import annotations

import os
from pathlib import Path

_AT_ONCE = 3
_FIRST_DELAY_S = 5.0
_LONGEST_DELAY_S = 300.0
_BYTES_MAX = 16


class Restarts:
    """Counts starts in a file that outlives a restart and not a reboot: one in systemd's runtime directory.

    The first three restarts are not delayed, the next by 5 s, 10 s and so on up to 5 minutes. `end`, or `steady` for
    one that has run long enough, begins the count anew.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / "starts"

    def begin(self) -> float:
        """Count this start; for how many seconds to wait with it."""
        if self._file is None:
            return 0.0
        before = self._count()
        try:
            self._file.write_text(f"{before + 1}\n")
        except OSError:
            return 0.0
        excess = before - _AT_ONCE
        return 0.0 if excess <= 0 else float(min(_FIRST_DELAY_S * 2 ** min(excess - 1, 10), _LONGEST_DELAY_S))

    def steady(self) -> None:
        """All went well: the next start is the first."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    end = steady

    def _count(self) -> int:
        assert self._file is not None
        try:
            with self._file.open("rb") as file:
                said = file.read(_BYTES_MAX).strip()
        except OSError:
            return 0
        return int(said) if said.isdigit() else 0


def runtime_folder() -> Path | None:
    """systemd's RuntimeDirectory=, None where there is none."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(folder) if folder else None
