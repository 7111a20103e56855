"""A repository in a folder of this machine, such as a USB stick's."""

from __future__ import annotations

from pathlib import Path

from edgeinfer.errors import UpdateError
from edgeinfer.updates.transport import Chunks, NotThere

_CHUNK_BYTES = 1 << 18


class FolderTransport:
    """The folder that holds `metadata/` and `targets/`. Raises UpdateError where it holds none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / "metadata").is_dir():
            raise UpdateError(f"{folder} holds no repository: there is no folder metadata in it")

    def chunks(self, path: str, offset: int, most: int) -> Chunks:
        place = self._folder / path
        try:
            # A pipe would wait for its writer.
            if not place.is_file():
                raise NotThere(f"there is no {path} in {self._folder}")
            with place.open("rb") as file:
                file.seek(offset)
                while most > 0 and (piece := file.read(min(most, _CHUNK_BYTES))):
                    most -= len(piece)
                    yield piece
        except OSError as failed:
            raise UpdateError(f"cannot read {place}: {failed.strerror}") from failed

    def close(self) -> None:
        pass
