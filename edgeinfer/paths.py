"""Where things lie on a device: state, configuration, and the data folders that anyone can add to."""

from __future__ import annotations

import os
from pathlib import Path

SYSTEM_FOLDER = Path("/etc/edgeinfer")


def state_folder() -> Path:
    """The only folder written to by itself: tuning plans, trial results, spool, model store."""
    for variable, below in (("EDGEINFER_STATE", ""), ("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "edgeinfer")):
        # systemd may list several state directories, separated by colons: the first is ours.
        value = os.environ.get(variable, "").split(":")[0]
        if value:
            return Path(value) / below
    return Path.home() / ".local" / "state" / "edgeinfer"


def data_folders(kind: str) -> tuple[Path, ...]:
    """Where `devices` or `models` are looked for, the first to hold a name wins."""
    package = Path(__file__).resolve().parent
    return (SYSTEM_FOLDER / kind, state_folder() / kind, package / "data" / kind, package.parent / kind)
