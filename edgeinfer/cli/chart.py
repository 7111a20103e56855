"""A picture of how long a model takes: latencies of all queries, and the stages of a frame; as SVG or PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log, log10
from pathlib import Path
from typing import Literal, Protocol

from edgeinfer.errors import OutputError
from edgeinfer.pipeline.bench import SingleStream

WIDTH, HEIGHT = 920, 560

_INK, _FAINT, _GRID = "#1f2328", "#59636e", "#e4e8ec"
_CURVES = ("#0969da", "#bc4c00")
_STAGES = ("#54aeff", "#4ac26b", "#0969da", "#bf8700", "#8c959f")
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, WIDTH - 36, 134, 384
_BAR_TOP, _BAR_HEIGHT = 466, 26
_MARKED = (0.5, 0.9, 0.99)
# From a little below the fastest to a little beyond the 99th percentile: what is slower would squeeze all others.
_SHOWN_SHARE, _MARGIN = 0.99, 1.25
_POINTS_MAX = 400
_LEAST_MS = 1e-4

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Chart:
    """title, subtitle: what was measured, and on what. curves: queries by their name. stage_ms: a frame's stages."""

    title: str
    subtitle: str
    curves: Mapping[str, SingleStream]
    stage_ms: Mapping[str, float]


class Canvas(Protocol):
    """What a chart is drawn with; pixels from the upper left, colours as #rrggbb."""

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None: ...
    def path(self, points: Sequence[tuple[float, float]], colour: str, *, thick: float = 1.0) -> None: ...
    def dot(self, x: float, y: float, colour: str) -> None: ...
    def text(
        self, x: float, y: float, text: str, colour: str = _INK, *, size: int = 13, anchor: Anchor = "start"
    ) -> None: ...


def write_chart(chart: Chart, path: Path) -> None:
    """As the ending of the file says. Raises OutputError."""
    try:
        path.write_bytes(as_png(chart) if path.suffix.lower() == ".png" else as_svg(chart).encode())
    except OSError as refused:
        raise OutputError(f"cannot write {path}: {refused.strerror or refused}") from refused


def check_chart(path: Path) -> None:
    """Raises OutputError where the ending names no format of a chart, or its folder is not there."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise OutputError(f"--plot {path}: its ending says no format", hint="end it in .svg or .png")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"--plot {path}: there is no such folder")


def as_svg(chart: Chart) -> str:
    """One SVG document."""
    canvas = _Svg()
    _draw(chart, canvas)
    return canvas.document()


def as_png(chart: Chart) -> bytes:
    """The same picture, at twice the size."""
    canvas = _Png()
    _draw(chart, canvas)
    return canvas.encoded()


@dataclass(frozen=True, slots=True)
class _Axis:
    """Latencies from left to right, on a logarithmic scale: a model alone and end to end may lie far apart."""

    least_ms: float
    most_ms: float

    def x(self, took_ms: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * log(took_ms / self.least_ms) / log(self.most_ms / self.least_ms)

    def ticks_ms(self) -> Iterator[float]:
        """1, 2 and 5 times each power of ten."""
        power = floor(log10(self.least_ms))
        while 10.0**power <= self.most_ms:
            for factor in (1, 2, 5):
                if self.least_ms <= factor * 10.0**power <= self.most_ms:
                    yield factor * 10.0**power
            power += 1


def _draw(chart: Chart, canvas: Canvas) -> None:
    canvas.box(0, 0, WIDTH, HEIGHT, "#ffffff")
    canvas.text(_LEFT, 38, chart.title, size=20)
    canvas.text(_LEFT, 62, chart.subtitle, _FAINT)
    axis = _axis(tuple(chart.curves.values()))
    _draw_axes(canvas, axis)
    # Each curve's numbers stand on its outer side.
    for (name, stream), colour, side, x in zip(chart.curves.items(), _CURVES, (-1, 1), (_LEFT, 320), strict=False):
        canvas.box(x, 83, 14, 4, colour)
        canvas.text(x + 20, 90, f"{name} ({len(stream.latency_ms)} queries)")
        _draw_curve(canvas, stream, axis, colour, side)
    _draw_stages(canvas, chart.stage_ms)


def _axis(streams: Sequence[SingleStream]) -> _Axis:
    fastest = max(min(stream.sorted_ms[0] for stream in streams), _LEAST_MS)
    slowest = max(stream.percentile_ms(_SHOWN_SHARE) for stream in streams)
    return _Axis(fastest / _MARGIN, max(slowest, fastest) * _MARGIN)


def _draw_axes(canvas: Canvas, axis: _Axis) -> None:
    canvas.text(_LEFT, _TOP - 14, "share of queries answered within that time", _FAINT, size=12)
    for percent in (0, 25, 50, 75, 90, 100):
        y = _y(percent / 100)
        canvas.path([(_LEFT, y), (_RIGHT, y)], _GRID)
        canvas.text(_LEFT - 10, y + 4, f"{percent} %", _FAINT, size=12, anchor="end")
    for tick_ms in axis.ticks_ms():
        x = axis.x(tick_ms)
        canvas.path([(x, _TOP), (x, _BOTTOM)], _GRID)
        canvas.text(x, _BOTTOM + 18, f"{tick_ms:g}", _FAINT, size=12, anchor="middle")
    canvas.path([(_LEFT, _BOTTOM), (_RIGHT, _BOTTOM)], _FAINT)
    canvas.text(_RIGHT, _BOTTOM + 38, "latency of a query, ms (logarithmic)", _FAINT, size=12, anchor="end")


def _draw_curve(canvas: Canvas, stream: SingleStream, axis: _Axis, colour: str, side: int) -> None:
    canvas.path(list(_steps(stream, axis)), colour, thick=2)
    for share in _MARKED:
        took_ms = stream.percentile_ms(share)
        x, y = axis.x(max(took_ms, axis.least_ms)), _y(share)
        canvas.dot(x, y, colour)
        # A curve comes to its point from the lower left.
        anchor: Anchor = "end" if side < 0 else "start"
        below = -6 if side < 0 else 15
        canvas.text(x + side * 9, y + below, f"p{share * 100:g} {_short(took_ms)}", colour, size=12, anchor=anchor)


def _steps(stream: SingleStream, axis: _Axis) -> Iterator[tuple[float, float]]:
    """The share of queries answered within each time; no more points than are seen."""
    queries = len(stream.sorted_ms)
    ranks = {*range(0, queries, max(1, queries // _POINTS_MAX)), queries - 1}
    yield axis.x(max(stream.sorted_ms[0], axis.least_ms)), _y(0)
    for rank in sorted(ranks):
        took_ms = stream.sorted_ms[rank]
        if took_ms > axis.most_ms:
            return
        yield axis.x(max(took_ms, axis.least_ms)), _y((rank + 1) / queries)


def _draw_stages(canvas: Canvas, stage_ms: Mapping[str, float]) -> None:
    total_ms = sum(stage_ms.values()) or 1.0
    canvas.text(_LEFT, _BAR_TOP - 10, f"stages of a frame end to end, medians: {_short(total_ms)} ms together")
    x, legend_x = float(_LEFT), float(_LEFT)
    for (name, took_ms), colour in zip(stage_ms.items(), _STAGES, strict=False):
        width = (_RIGHT - _LEFT) * took_ms / total_ms
        canvas.box(x, _BAR_TOP, width, _BAR_HEIGHT, colour)
        canvas.box(legend_x, _BAR_TOP + _BAR_HEIGHT + 18, 11, 11, colour)
        canvas.text(legend_x + 17, _BAR_TOP + _BAR_HEIGHT + 28, f"{name} {_short(took_ms)} ms", size=12)
        x += width
        legend_x += (_RIGHT - _LEFT) / len(stage_ms)


def _y(share: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * share


def _short(number: float) -> str:
    """Three digits that count."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


class _Svg:
    def __init__(self) -> None:
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self._parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>')

    def path(self, points: Sequence[tuple[float, float]], colour: str, *, thick: float = 1.0) -> None:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{thick:g}" '
            'stroke-linejoin="round"/>'
        )

    def dot(self, x: float, y: float, colour: str) -> None:
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}" stroke="#ffffff" stroke-width="1.5"/>'
        )

    def text(
        self, x: float, y: float, text: str, colour: str = _INK, *, size: int = 13, anchor: Anchor = "start"
    ) -> None:
        shown = escape("".join(sign if sign.isprintable() else "?" for sign in text))
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">{shown}</text>'
        )

    def document(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, DejaVu Sans, sans-serif">'
        )
        return "\n".join((head, *self._parts, "</svg>\n"))


class _Png:
    """Drawn by OpenCV, whose letters are ASCII."""

    _SCALE = 2
    _SHIFT = 4  # Fractional bits of a coordinate.
    # Of OpenCV's Hershey letters: pixels from base line to top at scale 1, and how wide strokes look well.
    _LETTER_PX = 30.0

    def __init__(self) -> None:
        import cv2
        import numpy as np

        self._cv2 = cv2
        self._pixels = np.full((HEIGHT * self._SCALE, WIDTH * self._SCALE, 3), 255, np.uint8)
        self._np = np

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        corner, other = self._point(x, y), self._point(x + width, y + height)
        self._pixels[corner[1] : other[1], corner[0] : other[0]] = _bgr(colour)

    def path(self, points: Sequence[tuple[float, float]], colour: str, *, thick: float = 1.0) -> None:
        fixed = self._np.round(self._np.array(points) * self._SCALE * (1 << self._SHIFT)).astype(self._np.int32)
        width = round(thick * self._SCALE)
        self._cv2.polylines(self._pixels, [fixed], False, _bgr(colour), width, self._cv2.LINE_AA, self._SHIFT)

    def dot(self, x: float, y: float, colour: str) -> None:
        for radius, fill in ((5.5, "#ffffff"), (4.0, colour)):
            self._cv2.circle(
                self._pixels, self._point(x, y), round(radius * self._SCALE), _bgr(fill), -1, self._cv2.LINE_AA
            )

    def text(
        self, x: float, y: float, text: str, colour: str = _INK, *, size: int = 13, anchor: Anchor = "start"
    ) -> None:
        shown = text.encode("ascii", "replace").decode()
        font, scale, stroke = self._cv2.FONT_HERSHEY_SIMPLEX, size * self._SCALE / self._LETTER_PX, 2
        (width, _), _ = self._cv2.getTextSize(shown, font, scale, stroke)
        left = {"start": 0.0, "middle": width / 2, "end": float(width)}[anchor]
        at = self._point(x - left / self._SCALE, y)
        self._cv2.putText(self._pixels, shown, at, font, scale, _bgr(colour), stroke, self._cv2.LINE_AA)

    def encoded(self) -> bytes:
        is_written, png = self._cv2.imencode(".png", self._pixels)
        if not is_written:
            raise OutputError("this OpenCV writes no PNG", hint="end the file in .svg")
        return bytes(png)

    def _point(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self._SCALE), round(y * self._SCALE)


def _bgr(colour: str) -> tuple[int, int, int]:
    return int(colour[5:7], 16), int(colour[3:5], 16), int(colour[1:3], 16)
