"""`tally://counts.txt`: how often each label was seen, written when the run ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame
from edgeinfer.result import Result
from edgeinfer.sinks import SinkOptions


class Tally:
    """A sink. One line per label, "count label", most frequent first."""

    wants_pixels = False

    def __init__(self, uri: str, options: SinkOptions) -> None:
        self.uri = uri
        self._path = Path(uri.removeprefix("tally://"))
        self._counts: Counter[str] = Counter()

    def write(self, result: Result, frame: Frame | None) -> None:
        found = (result.detections or ()) + (result.classes or ())
        self._counts.update(one.label for one in found)

    def close(self) -> None:
        lines = [f"{count} {label}\n" for label, count in self._counts.most_common()]
        try:
            self._path.write_text("".join(lines), encoding="utf-8")
        except OSError as failure:
            raise OutputError(f"{self.uri}: {failure.strerror}") from failure
