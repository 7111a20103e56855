"""The scene of one pipeline: tracks in its results, and the events that its rules make of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from edgeinfer.config import RuleConfig
from edgeinfer.event import SCHEMA, Happening
from edgeinfer.frame import Frame, Input, Outline
from edgeinfer.result import Detection, Result
from edgeinfer.scene.blur import blurred
from edgeinfer.scene.rules import Finding, View, make_rule
from edgeinfer.scene.tracker import Track, Tracker

# Of a run that publishes nothing for hours.
_UNTOLD_MAX = 1000


@dataclass(frozen=True, slots=True)
class Seen:
    """A result with its tracks, and what happened in it. hidden_xyxy: what no output may see."""

    value: Result
    events: tuple[Happening, ...] = ()
    outlines: tuple[Outline, ...] = ()
    hidden_xyxy: tuple[tuple[float, float, float, float], ...] = ()

    def result(self) -> Result:
        return self.value

    def shown(self, frame: Frame) -> Frame:
        """The frame as outputs may have it: what is to be hidden is blurred, and it knows what to draw."""
        if not (self.outlines or self.hidden_xyxy):
            return frame
        return replace(frame, pixels=blurred(frame.pixels, self.hidden_xyxy), outlines=self.outlines)


@dataclass(frozen=True, slots=True)
class _Begun:
    id: str
    start: str


class _Watched:
    """A rule with what it has begun to tell."""

    def __init__(self, config: RuleConfig, new_id: Callable[[], str], *, kept: bool) -> None:
        self._config = config
        self._is_kept = kept
        self._rule = make_rule(config)
        self._new_id = new_id
        self._begun: dict[object, _Begun] = {}
        self._quiet_until_ns: int | None = None

    def look(self, view: View) -> Iterator[Happening]:
        for finding in self._rule.look(view):
            if finding.phase == "end":
                yield from self._over(finding, view.result)
                continue
            if self._quiet_until_ns is not None and view.now_ns < self._quiet_until_ns:
                continue
            self._quiet_until_ns = view.now_ns + round(self._config.cooldown_s * 1e9)
            begun = _Begun(self._new_id(), view.result.captured_at)
            if finding.phase == "begin":
                self._begun[finding.key] = begun
            end = view.result.captured_at if finding.phase == "once" else None
            yield self._happening(finding, view.result, begun, end=end)

    def cut(self, last: Result) -> Iterator[Happening]:
        for finding in self._rule.cut():
            yield from self._over(finding, last)

    def _over(self, finding: Finding, result: Result) -> Iterator[Happening]:
        begun = self._begun.pop(finding.key, None)
        if begun is not None:
            yield self._happening(finding, result, begun, end=result.captured_at)

    def _happening(self, finding: Finding, result: Result, begun: _Begun, *, end: str | None) -> Happening:
        return Happening(
            schema=SCHEMA,
            id=begun.id,
            node=result.node,
            pipeline=result.pipeline,
            occurred_at=result.captured_at,
            kind=self._config.kind,
            rule=self._config.name,
            start=begun.start,
            end=end,
            position_s=result.position_s,
            label=finding.label,
            track=finding.track,
            direction=finding.direction,
            score=finding.score,
            value=finding.value,
            count=finding.count,
            result=result.id,
            seq=result.seq,
            snapshot=f"{begun.id}.jpg" if self._is_kept else None,
            clip=f"{begun.id}.mp4" if self._is_kept else None,
        )


class Scene:
    """Follows what a pipeline finds; `look` is called by its thread, with its results in their order.

    new_id: gives ids of events, such as IdMaker does. blur: labels of what no output may see; even where it scores too
    low to be told of, and for a second where it is thought to be. kept: there are files of events; see EventFiles.
    """

    def __init__(
        self,
        rules: Sequence[RuleConfig],
        *,
        track: bool,
        new_id: Callable[[], str],
        blur: Sequence[str] = (),
        kept: bool = False,
    ) -> None:
        self._blur = frozenset(blur)
        self._outlines = tuple(
            Outline(rule.name, points, rule.zone is not None)
            for rule in rules
            if (points := rule.zone or rule.line) is not None
        )
        self._tracker = Tracker() if track or blur or any(rule.needs_tracks for rule in rules) else None
        self._rules = [_Watched(rule, new_id, kept=kept) for rule in rules]
        # Whoever ends a run may not be able to wait for the frame in work.
        self._looking = threading.Lock()
        self._last: Result | None = None
        self._untold: tuple[Happening, ...] = ()

    def look(self, result: Result, frame: Input, *, score_min: float) -> Seen:
        """The result as it is published, with what scores `score_min` and its tracks, and what happened."""
        now_ns = frame.captured_ns if frame.position_s is None else round(frame.position_s * 1e9)
        found = result.detections or ()
        if self._tracker is not None and result.detections is not None:
            source = result.source
            aspect = (source.width or 1) / (source.height or 1)
            result = self._followed(self._tracker, result, aspect, now_ns, score_min)
        tracks = () if self._tracker is None else self._tracker.tracks
        view = View(result, [track for track in tracks if track.id is not None], now_ns, score_min)
        with self._looking:
            events = (*self._untold, *(event for rule in self._rules for event in rule.look(view)))
            self._untold = ()
            self._last = result
        return Seen(result, events, self._outlines, self._hidden(found, tracks))

    def take_back(self, seen: Seen) -> None:
        """That result is not published: its events go with the next one."""
        with self._looking:
            self._untold = seen.events[-_UNTOLD_MAX:]

    def cut(self) -> Seen | None:
        """No result follows: the last one, if any, with the ends of what lasted in it. By any thread."""
        with self._looking:
            if (last := self._last) is None:
                return None
            events = (*self._untold, *(event for rule in self._rules for event in rule.cut(last)))
            self._untold = ()
            return Seen(last, events)

    def _hidden(
        self, found: Sequence[Detection], tracks: Sequence[Track]
    ) -> tuple[tuple[float, float, float, float], ...]:
        if not self._blur:
            return ()
        within = (each for outer in found for inner in outer.inner or () for each in inner.detections or ())
        seen = tuple(each.box_xyxy for each in (*found, *within) if each.label in self._blur)
        return seen + tuple(track.box_xyxy for track in tracks if track.label in self._blur)

    def _followed(self, tracker: Tracker, result: Result, aspect: float, now_ns: int, score_min: float) -> Result:
        if result.reused:
            tracker.hold(now_ns)
            return result
        found = result.detections or ()
        ids = tracker.update(found, now_ns, score_min=score_min, aspect=aspect)
        published = tuple(
            each if track_id is None else msgspec.structs.replace(each, track_id=track_id)
            for each, track_id in zip(found, ids, strict=True)
            if each.score >= score_min
        )
        return msgspec.structs.replace(result, detections=published)
