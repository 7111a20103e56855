"""Sources: whether they are there, and whether cameras offer what is asked of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeinfer.board.roots import entries
from edgeinfer.config import PipelineConfig
from edgeinfer.doctor.finding import Finding, Patient
from edgeinfer.errors import SourceError
from edgeinfer.sources import SOURCES, camera
from edgeinfer.sources.v4l2 import Mode, modes
from edgeinfer.sources.words import driver_name

# What OpenCV turns into a picture.
_PICTURES = frozenset(
    ("MJPG", "JPEG", "YUYV", "UYVY", "YVYU", "NV12", "NV21", "YU12", "YV12", "RGB3", "BGR3", "BGR4", "GREY", "Y16")
)
_FAST_FPS = 20.0


def sources(patient: Patient) -> Iterator[Finding]:
    for each in patient.pipelines:
        try:
            driver = driver_name(each.source, SOURCES.names())
            if driver == "camera":
                yield from _of_pipeline(each)
            elif driver == "serial":
                yield from _of_port(each)
        except SourceError as refused:
            yield Finding("error", f"pipeline {each.name}: {refused.message}", refused.hint)
    if not patient.pipelines and patient.roots.is_here:
        for node in entries(patient.roots.dev, "video[0-9]*"):
            yield from _of_node(node)


def _of_node(node: Path) -> Iterator[Finding]:
    """A camera that nobody asks for yet: only whether it could be opened."""
    try:
        camera.probe(node, str(node))
    except SourceError as closed:
        if "no permission" in closed.message:
            yield Finding("warning", closed.message, closed.hint)


def _of_port(config: PipelineConfig) -> Iterator[Finding]:
    """Only looked at: to open it would set many a sensor back. Raises SourceError."""
    from edgeinfer.sources import serial  # Whoever has no sensor needs no pyserial.

    port = serial.read_port(config.source)
    serial.check_access(config.source, port)
    steady = serial.stable_name(port.device)
    if steady is not None:
        said = f"pipeline {config.name}: {port.device} may have another number after the next start"
        yield Finding("warning", said, f"serial://{steady}")


def _of_pipeline(config: PipelineConfig) -> Iterator[Finding]:
    """Raises SourceError."""
    node, _ = camera.device_of(config.source)
    camera.probe(node, config.source)
    try:
        offered = modes(node)
    except OSError as failed:
        raise SourceError(f"{config.source} does not open: {failed.strerror}") from failed
    for finding in judge(config, offered):
        yield Finding(finding.severity, f"pipeline {config.name}: {finding.what}", finding.remedy)


def judge(config: PipelineConfig, offered: Sequence[Mode]) -> Iterator[Finding]:
    """What is asked of a camera, against what it offers."""
    if not offered:
        return
    formats = list(dict.fromkeys(each.pixel_format for each in offered))
    if not _PICTURES.intersection(formats):
        said = f"{config.source} gives no pictures but what its sensor sees ({', '.join(formats)})"
        yield Finding("error", said, "libcamerify edgeinfer run …, from the package libcamera-tools")
        return
    wanted = config.pixel_format
    if wanted is not None and wanted not in formats:
        known = [name for name in formats if name in _PICTURES]
        remedy = f'pixel_format = "{known[0]}" (it offers {", ".join(known)})'
        yield Finding("error", f"{config.source} offers no {wanted}", remedy)
        return
    yield from _size(config, [each for each in offered if wanted in (None, each.pixel_format)])


def _size(config: PipelineConfig, offered: Sequence[Mode]) -> Iterator[Finding]:
    if config.width is None or config.height is None:
        return
    fitting = [each for each in offered if each.holds(config.width, config.height)]
    if not fitting:
        pixels = config.width * config.height
        near = min(offered, key=lambda each: abs(each.width * each.height - pixels))
        said = f"{config.source} offers no {config.width}x{config.height}"
        yield Finding("warning", said, f"width = {near.width}, height = {near.height}")
        return
    yield from _rate(config, fitting)


def _rate(config: PipelineConfig, fitting: Sequence[Mode]) -> Iterator[Finding]:
    """At large sizes raw pictures come slowly over USB, where compressed ones do not."""
    known = {each.pixel_format: each.fps for each in fitting if each.fps is not None}
    if not known:
        return
    wanted_fps = config.fps or min(_FAST_FPS, max(known.values()))
    # Where nothing is said, the driver goes on with what was set last, which most often is its first.
    taken = config.pixel_format or next(iter(known))
    if known.get(taken, wanted_fps) >= wanted_fps * 0.9:
        return
    best = max(known, key=lambda name: known[name])
    said = f"{config.source} gives {config.width}x{config.height} as {taken} at {known[taken]:g} fps only"
    if known[best] > known[taken]:
        yield Finding("warning", said, f'pixel_format = "{best}", which comes at {known[best]:g} fps')
    else:
        yield Finding("warning", said, "ask for a smaller width and height")
