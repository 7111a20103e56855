"""Results as a table: one row per detected object or class."""

from __future__ import annotations

import csv
import io

from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame
from edgeinfer.result import Classification, Detection, Result
from edgeinfer.sinks import SinkOptions
from edgeinfer.sinks.textfile import LineFile

COLUMNS = (
    "seq",
    "captured_at",
    "position_s",
    "source",
    "label",
    "class_id",
    "score",
    "x_min",
    "y_min",
    "x_max",
    "y_max",
    "infer_ms",
    "age_ms",
    "inferred_age_ms",
)


class CsvSink:
    """RFC 4180 with a header; a frame in which nothing was found has no row. Coordinates 0..1 of the source.

    A row with an `inferred_age_ms` is of a reused result: found in a frame that was taken so long before.
    """

    wants_pixels = False

    def __init__(self, uri: str, options: SinkOptions) -> None:
        self.uri = uri
        self._file = LineFile(uri, append=options.append)
        if not self._file.is_empty:
            return
        try:
            self._file.write(_rows([COLUMNS]))
        except OutputError:
            self._file.close()
            raise

    def write(self, result: Result, frame: Frame | None) -> None:
        found: list[Detection | Classification] = [*(result.detections or ()), *(result.classes or ())]
        if not found:
            return
        timing = result.timing_ms
        position = "" if result.position_s is None else result.position_s
        inferred_age_ms = "" if result.inferred_age_ms is None else result.inferred_age_ms
        self._file.write(
            _rows(
                [
                    (
                        result.seq,
                        result.captured_at,
                        position,
                        result.source.uri,
                        each.label,
                        each.class_id,
                        each.score,
                        *(each.box_xyxy if isinstance(each, Detection) else ("",) * 4),
                        timing.infer,
                        timing.age,
                        inferred_age_ms,
                    )
                    for each in found
                ]
            )
        )

    def close(self) -> None:
        self._file.close()


def _rows(rows: list[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
