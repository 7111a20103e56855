"""Results as a table: one row per detected object or class."""

from __future__ import annotations

import csv
import io

from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame
from edgeinfer.result import Result
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
        found = _found(result)
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
                        *each,
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


def _found(result: Result) -> list[tuple[object, ...]]:
    """Label, class, score and box of each thing found; a value stands in the place of a score, under its name."""
    no_box = ("",) * 4
    found: list[tuple[object, ...]] = [
        (each.label, each.class_id, each.score, *each.box_xyxy) for each in result.detections or ()
    ]
    found.extend((each.label, each.class_id, each.score, *no_box) for each in result.classes or ())
    if result.anomaly is not None:
        found.append(("anomaly" if result.anomaly.is_anomaly else "usual", "", result.anomaly.score, *no_box))
    found.extend((value.name, "", value.value, *no_box) for value in result.values or ())
    return found


def _rows(rows: list[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
