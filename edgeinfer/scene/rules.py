"""What is to be told of a scene: each rule looks at one picture after the other and says what begins and what ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from edgeinfer.config import RuleConfig
from edgeinfer.geometry import Point, cross_each_other, distance, is_inside, side
from edgeinfer.result import Result
from edgeinfer.scene.tracker import Track

# An object at the edge of a zone is in it or not once that has stood for so long: its box trembles.
STEADY_NS = 300_000_000
# And one is across a line when it is so far from it, in shares of the picture.
_OFF_LINE = 0.01
_WHOLE: tuple[Point, ...] = ((-1.0, -1.0), (2.0, -1.0), (2.0, 2.0), (-1.0, 2.0))


@dataclass(frozen=True, slots=True)
class View:
    """One picture as the rules see it. tracks: those seen at least twice. now_ns: the time of the scene.

    score_min: from there on a box says where its object is; what scores less only says that it is still there.
    """

    result: Result
    tracks: Sequence[Track]
    now_ns: int
    score_min: float

    def places(self, track: Track) -> bool:
        """Whether it is known where that object is now."""
        return track.seen_ns == self.now_ns and track.score >= self.score_min


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule has to tell. key: names what lasts, so that its end finds its beginning.

    phase: `once`, or `begin` and later `end`.
    """

    phase: Literal["once", "begin", "end"]
    key: object
    label: str
    track: int | None = None
    score: float | None = None
    count: int | None = None
    value: float | None = None
    direction: Literal["left-to-right", "right-to-left"] | None = None


class Rule(Protocol):
    def look(self, view: View) -> Iterator[Finding]: ...

    def cut(self) -> Iterator[Finding]:
        """No picture follows: the ends of what lasts, as it was in the last one."""
        ...


def make_rule(config: RuleConfig) -> Rule:
    """The rule that a configuration, already checked, describes."""
    return _RULES[config.kind](config)


class _Steady:
    """A yes or no that changes when the other has stood for so long."""

    def __init__(self, *, on_ns: int, off_ns: int) -> None:
        self.value = False
        self._needs_ns = {True: on_ns, False: off_ns}
        self._other_since_ns: int | None = None

    def changes(self, value: bool, now_ns: int) -> bool:  # noqa: FBT001 - the value itself
        """Whether it changes now."""
        if value == self.value:
            self._other_since_ns = None
            return False
        since_ns = self._other_since_ns = now_ns if self._other_since_ns is None else self._other_since_ns
        if now_ns - since_ns < self._needs_ns[value]:
            return False
        self.value, self._other_since_ns = value, None
        return True


class _InZone:
    """Of enter, leave and dwell: objects that are in a zone for some time."""

    def __init__(self, config: RuleConfig) -> None:
        self._config = config
        self._zone = config.zone or _WHOLE
        dwell_ns = round((config.for_s or 0) * 1e9)
        self._on_ns = dwell_ns if config.kind == "dwell" else STEADY_NS
        self._known: dict[int, tuple[_Steady, Track]] = {}

    def look(self, view: View) -> Iterator[Finding]:
        present = set()
        for track in _wanted(self._config, view.tracks):
            assert track.id is not None
            present.add(track.id)
            state = self._known[track.id][0] if track.id in self._known else self._new()
            self._known[track.id] = state, track
            # While it is not seen nothing is known of where it is.
            if view.places(track) and state.changes(is_inside(_anchor(self._config, track), self._zone), view.now_ns):
                yield from self._told(track, entered=state.value)
        for gone in [each for each in self._known if each not in present]:
            state, track = self._known.pop(gone)
            if state.value:
                yield from self._told(track, entered=False)

    def cut(self) -> Iterator[Finding]:
        # Nobody left or entered by it.
        if self._config.kind == "dwell":
            yield from (_of_track("end", track) for state, track in self._known.values() if state.value)

    def _new(self) -> _Steady:
        return _Steady(on_ns=self._on_ns, off_ns=STEADY_NS)

    def _told(self, track: Track, *, entered: bool) -> Iterator[Finding]:
        if self._config.kind == "dwell":
            yield _of_track("begin" if entered else "end", track)
        elif entered == (self._config.kind == "enter"):
            yield _of_track("once", track)


class _Occupancy:
    """How many there are in a zone."""

    def __init__(self, config: RuleConfig) -> None:
        self._config = config
        self._zone = config.zone or _WHOLE
        steady_ns = STEADY_NS if config.for_s is None else round(config.for_s * 1e9)
        self._state = _Steady(on_ns=steady_ns, off_ns=steady_ns)
        self._count = 0

    def look(self, view: View) -> Iterator[Finding]:
        wanted = _wanted(self._config, view.tracks)
        self._count = sum(is_inside(_anchor(self._config, track), self._zone) for track in wanted)
        if self._state.changes(self._count >= (self._config.at_least or 1), view.now_ns):
            yield self._told("begin" if self._state.value else "end")

    def cut(self) -> Iterator[Finding]:
        if self._state.value:
            yield self._told("end")

    def _told(self, phase: Literal["begin", "end"]) -> Finding:
        return Finding(phase, None, ", ".join(self._config.classes or ()), count=self._count)


class _Cross:
    """Objects that go over a line, and which way. Seen across it once they may be misjudged; twice they are across."""

    def __init__(self, config: RuleConfig) -> None:
        assert config.line is not None
        self._config = config
        self._pieces = list(zip(config.line, config.line[1:], strict=False))
        self._direction = config.direction or "both"
        self._from: dict[int, Point] = {}
        self._seen_across: set[int] = set()

    def look(self, view: View) -> Iterator[Finding]:
        present = {track.id: track for track in _wanted(self._config, view.tracks) if track.id is not None}
        self._from = {each: point for each, point in self._from.items() if each in present}
        self._seen_across &= self._from.keys()
        for number, track in present.items():
            point = _anchor(self._config, track)
            if not view.places(track) or min(distance(point, a, b) for a, b in self._pieces) < _OFF_LINE:
                continue
            before = self._from.setdefault(number, point)
            crossed = [(a, b) for a, b in self._pieces if cross_each_other(a, b, before, point)]
            # Over a bend of it and back again is no crossing.
            if len(crossed) % 2 and number not in self._seen_across:
                self._seen_across.add(number)
                continue
            self._seen_across.discard(number)
            self._from[number] = point
            if len(crossed) % 2:
                yield from self._crossing(track, before, point, *crossed[-1])

    def cut(self) -> Iterator[Finding]:
        return iter(())

    def _crossing(self, track: Track, before: Point, point: Point, a: Point, b: Point) -> Iterator[Finding]:
        direction: Literal["left-to-right", "right-to-left"] = (
            "left-to-right" if side(a, b, point) > side(a, b, before) else "right-to-left"
        )
        if self._direction in ("both", direction):
            yield _of_track("once", track, direction=direction)


class _Level:
    """Of label, anomaly and value: a number that is beyond a threshold for some time, with hysteresis."""

    def __init__(self, config: RuleConfig) -> None:
        self._config = config
        self._measure: Callable[[Result], tuple[float, float, str] | None] = getattr(self, f"_of_{config.kind}")
        steady_ns = round((config.for_s or 0) * 1e9)
        self._state = _Steady(on_ns=steady_ns, off_ns=steady_ns)
        self._label = ""
        self._number = 0.0

    def look(self, view: View) -> Iterator[Finding]:
        measured = self._measure(view.result)
        if measured is None:
            return
        number, threshold, label = measured
        clear = threshold if self._config.clear is None else self._config.clear
        least = clear if self._state.value else threshold
        is_beyond = number <= least if self._config.below is not None else number >= least
        if is_beyond and not self._state.value:
            self._label = label
        self._number = number
        if self._state.changes(is_beyond, view.now_ns):
            yield self._told("begin" if self._state.value else "end")

    def cut(self) -> Iterator[Finding]:
        if self._state.value:
            yield self._told("end")

    def _told(self, phase: Literal["begin", "end"]) -> Finding:
        is_label = self._config.kind == "label"
        score, value = (self._number, None) if is_label else (None, self._number)
        return Finding(phase, None, self._label, score=score, value=value)

    def _of_label(self, result: Result) -> tuple[float, float, str] | None:
        if result.classes is None:
            return None
        wanted = [found for found in result.classes if found.label in (self._config.classes or ())]
        threshold = 0.5 if self._config.score_min is None else self._config.score_min
        if not wanted:
            return 0.0, threshold, ""
        best = max(wanted, key=lambda found: found.score)
        return best.score, threshold, best.label

    def _of_anomaly(self, result: Result) -> tuple[float, float, str] | None:
        found = result.anomaly
        if found is None:
            return None
        return found.score, found.threshold if self._config.above is None else self._config.above, ""

    def _of_value(self, result: Result) -> tuple[float, float, str] | None:
        threshold = self._config.below if self._config.above is None else self._config.above
        found = next((each for each in result.values or () if each.name == self._config.value), None)
        return None if found is None or threshold is None else (found.value, threshold, found.name)


_RULES: Mapping[str, Callable[[RuleConfig], Rule]] = {
    "enter": _InZone,
    "leave": _InZone,
    "dwell": _InZone,
    "occupancy": _Occupancy,
    "cross": _Cross,
    "label": _Level,
    "anomaly": _Level,
    "value": _Level,
}


def _wanted(config: RuleConfig, tracks: Sequence[Track]) -> Iterator[Track]:
    for track in tracks:
        if (not config.classes or track.label in config.classes) and track.best_score >= (config.score_min or 0):
            yield track


def _anchor(config: RuleConfig, track: Track) -> Point:
    x_min, y_min, x_max, y_max = track.box_xyxy
    return (x_min + x_max) / 2, (y_min + y_max) / 2 if config.anchor == "centre" else y_max


def _of_track(
    phase: Literal["once", "begin", "end"],
    track: Track,
    *,
    direction: Literal["left-to-right", "right-to-left"] | None = None,
) -> Finding:
    return Finding(phase, track.id, track.label, track=track.id, score=track.best_score, direction=direction)
