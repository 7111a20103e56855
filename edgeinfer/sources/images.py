"""Images: one file, a folder, or a glob, in natural order."""

from __future__ import annotations

import glob
import logging
import re
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError
from edgeinfer.frame import Frame, Pixels
from edgeinfer.sources.options import SourceOptions, refuse_picture_options
from edgeinfer.sources.picture import BadPicture, decode
from edgeinfer.sources.words import IMAGE_SUFFIXES, cannot_read, is_glob

FILE_BYTES_MAX = 256 * 1024 * 1024

log = logging.getLogger(__name__)


def open_images(word: str, options: SourceOptions, clock: Clock) -> ImagesSource:
    """Find the images that the word means; they are read one by one later."""
    refuse_picture_options(options, word, "images")
    try:
        path = Path(word)
        if path.is_dir():
            return ImagesSource(word, _of_folder(path), clock)
        if path.exists() or not is_glob(word):
            return ImagesSource(word, [path], clock, single=True)
        return ImagesSource(word, _of_glob(word), clock)
    except (OSError, ValueError) as failed:
        raise cannot_read(word, failed) from failed


class ImagesSource:
    """Pictures from files. What cannot be read is passed over and named in `skipped`; one given alone is an error."""

    live = False
    fps = None

    def __init__(self, uri: str, paths: list[Path], clock: Clock, *, single: bool = False) -> None:
        self.uri = uri
        self._paths = deque(paths)
        self._clock = clock
        self._single = single
        self._seq = 0
        self._skipped: dict[str, str] = {}

    @property
    def skipped(self) -> Mapping[str, str]:
        return dict(self._skipped)

    def read(self) -> Frame | None:
        while (path := self._next_path()) is not None:
            try:
                pixels = load(path)
            except BadPicture as bad:
                self._pass_over(path, bad)
                continue
            return self._frame(path, pixels)
        if self._seq == 0 and self._skipped:
            path_name, reason = next(iter(self._skipped.items()))
            raise SourceError(
                f"none of the {len(self._skipped)} images of {self.uri!r} can be read: {path_name}: {reason}"
            )
        return None

    def close(self) -> None:
        # `clear` beside a `popleft` of another thread is safe.
        self._paths.clear()

    def _next_path(self) -> Path | None:
        try:
            return self._paths.popleft()
        except IndexError:
            return None

    def _frame(self, path: Path, pixels: Pixels) -> Frame:
        seq, self._seq = self._seq, self._seq + 1
        return Frame(pixels, seq, self._clock.monotonic_ns(), self._clock.unix_ns(), str(path))

    def _pass_over(self, path: Path, bad: BadPicture) -> None:
        if self._single:
            raise SourceError(f"{str(path)!r} cannot be read as an image: {bad}") from bad
        self._skipped[str(path)] = str(bad)
        log.warning("skipped %s: %s", path, bad)


def load(path: Path) -> Pixels:
    """The pixels of one image file; raises BadPicture."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as failed:
        raise BadPicture(failed.strerror or str(failed)) from failed
    if len(data) > FILE_BYTES_MAX:
        raise BadPicture(f"larger than {FILE_BYTES_MAX // 2**20} MiB")
    return decode(data)


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Orders img2 before img10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def _of_folder(folder: Path) -> list[Path]:
    paths = _images(path for path in folder.iterdir() if not path.name.startswith("."))
    if not paths:
        raise SourceError(
            f"no images in the folder {str(folder)!r}", hint=f"known are {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return paths


def _of_glob(pattern: str) -> list[Path]:
    names = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    paths = _images(Path(name) for name in names)
    if not paths:
        raise SourceError(f"no image matches {pattern!r}", hint=f"known are {', '.join(sorted(IMAGE_SUFFIXES))}")
    return paths


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted((path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()), key=natural_key)
