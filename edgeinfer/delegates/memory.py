"""Which models have passed their trial on which runtime, so that only the first start pays for it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeinfer.delegates.installed import runtime_version
from edgeinfer.durable import replace_file, sweep
from edgeinfer.packages import installed_version
from edgeinfer.paths import state_folder

log = logging.getLogger(__name__)

_MAX_FILES = 256
_MAX_BYTES = 64 << 10


class Memory:
    """One small file for each trial that passed. A folder that cannot be read or written only costs time.

    What this object has learnt itself it knows without the folder too.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder if folder is not None else state_folder() / "trials"
        self._passed: set[bytes] = set()
        sweep(self._folder)

    def has(self, job: Mapping[str, Any]) -> bool:
        key = _key(job)
        if key is None:
            return False
        if key in self._passed:
            return True
        try:
            with self._path(key).open("rb") as file:
                return file.read(_MAX_BYTES) == key
        except FileNotFoundError:
            return False
        except OSError as unreadable:
            log.debug("remembered trials cannot be read: %s", unreadable)
            return False

    def add(self, job: Mapping[str, Any]) -> None:
        key = _key(job)
        if key is None:
            return
        self._passed.add(key)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._drop_oldest()
            replace_file(self._path(key), key)
        except OSError as unwritable:
            log.debug("the trial is not remembered: %s", unwritable)

    def forget(self, job: Mapping[str, Any]) -> None:
        key = _key(job)
        if key is not None:
            self._passed.discard(key)
            with contextlib.suppress(OSError):
                self._path(key).unlink(missing_ok=True)

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{hashlib.sha256(key).hexdigest()[:32]}.json"

    def _drop_oldest(self) -> None:
        files = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in files[: max(0, len(files) - _MAX_FILES + 1)]:
            path.unlink(missing_ok=True)


def _key(job: Mapping[str, Any]) -> bytes | None:
    """All that decides whether a trial would pass again, as bytes; None where a version is not known."""
    installed, numpy = runtime_version(str(job["runtime"])), installed_version("numpy")
    if installed is None or numpy is None:
        return None
    known = {
        "sha256": job["sha256"],
        "shapes": job["shapes"],
        "runtime": job["runtime"],
        "unit": job["unit"],
        "driver": job["driver"],
        "library": job.get("library"),
        "golden": job.get("golden"),
        "version": installed,
        "numpy": numpy,
        # The state folder may be on a card that is put into another board.
        "machine": f"{platform.machine()} {platform.release()}",
    }
    return json.dumps(known, sort_keys=True, indent=1).encode()
