"""Results as a table: one row per detected object, class, segment, or keypoint of a body."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import count

from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame
from edgeinfer.result import Anomaly, Classification, Detection, Keypoint, Result, Segment, Value
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
    "area",
    "keypoints",
)


class CsvSink:
    """RFC 4180 with a header; a frame in which nothing was found has no row. Coordinates 0..1 of the source.

    area: the share of the picture that belongs to a segment; its mask is not written. keypoints: of an object, `x y
    score` with `;` between. A body alone in the picture has a row for each keypoint, whose corners are that point.
    A row with an `inferred_age_ms` is of a reused result: found in a frame that was taken so long before.
    """

    wants_pixels = False

    def __init__(self, uri: str, options: SinkOptions) -> None:
        self.uri = uri
        self._file = LineFile(uri, append=options.append)
        if not self._file.is_empty:
            return
        try:
            self._file.write(_table([COLUMNS]))
        except OutputError:
            self._file.close()
            raise

    def write(self, result: Result, frame: Frame | None) -> None:
        self.write_many([result])

    def write_many(self, results: Sequence[Result]) -> None:
        """The same for each of them, with one call to the kernel."""
        rows = [row for result in results for row in _rows_of(result)]
        if rows:
            self._file.write(_table(rows))

    def close(self) -> None:
        self._file.close()


def _rows_of(result: Result) -> Iterator[tuple[object, ...]]:
    found = [*map(_of_detection, result.detections or ()), *map(_of_class, result.classes or ())]
    found += [*map(_of_segment, result.segments or ()), *map(_of_keypoint, count(), result.keypoints or ())]
    found += [*map(_of_value, result.values or ())]
    if result.anomaly is not None:
        found.append(_of_anomaly(result.anomaly))
    timing = result.timing_ms
    position = "" if result.position_s is None else result.position_s
    inferred_age_ms = "" if result.inferred_age_ms is None else result.inferred_age_ms
    for whose, place, more in found:
        head = (result.seq, result.captured_at, position, result.source.uri)
        yield (*head, *whose, *place, timing.infer, timing.age, inferred_age_ms, *more)


_Cells = tuple[tuple[object, ...], tuple[object, ...], tuple[object, object]]
"""label, class id, score; the box; area and keypoints."""
_NOWHERE = ("",) * 4


def _of_detection(found: Detection) -> _Cells:
    keypoints = ";".join(f"{x} {y} {score}" for x, y, score in found.keypoints or ())
    return (found.label, found.class_id, found.score), found.box_xyxy, ("", keypoints)


def _of_class(found: Classification) -> _Cells:
    return (found.label, found.class_id, found.score), _NOWHERE, ("", "")


def _of_segment(found: Segment) -> _Cells:
    score = "" if found.score is None else found.score
    return (found.label, found.class_id, score), found.box_xyxy or _NOWHERE, (found.area, "")


def _of_keypoint(index: int, found: Keypoint) -> _Cells:
    x, y, score = found
    return ("keypoint", index, score), (x, y, x, y), ("", "")


def _of_value(found: Value) -> _Cells:
    """It stands in the place of a score, under its name."""
    return (found.name, "", found.value), _NOWHERE, ("", "")


def _of_anomaly(found: Anomaly) -> _Cells:
    return ("anomaly" if found.is_anomaly else "usual", "", found.score), _NOWHERE, ("", "")


def _table(rows: list[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
