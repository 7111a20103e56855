"""Home Assistant's device discovery: one retained message tells it of a node and all there is to show of it.

The rules are https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload; 2024.12 and later know them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from edgeinfer.uplink.bodies import Meta, PipelineInfo, ValueInfo
from edgeinfer.uplink.publication import Publication, Received
from edgeinfer.uplink.topics import Topics, checked_prefix

LABELS_MAX = 10
_COMPONENTS_MAX = 500
_PREVIOUS_BYTES_MAX = 1 << 20
_JITTER_S = 5.0
_STATE_MAX = 255  # Home Assistant keeps no longer state.

Component = dict[str, Any]


class HomeAssistant:
    """What a node tells Home Assistant.

    Of each pipeline: how many objects there are, in all and, of a model of at most ten labels, of each label, or the
    best class, or whether there is an anomaly and its score, or each value that its model names; its last event; its
    frames per second; and its picture, where it sends snapshots. Of the node: whether there is a problem. A pipeline
    that sends no results has none of the first, nor has one of a vector without names.
    """

    def __init__(self, topics: Topics, discovery_prefix: str = "homeassistant") -> None:
        self._topics = topics
        self._id = f"edgeinfer_{plain_id(topics.node)}"
        checked_prefix(discovery_prefix)
        self.topic = f"{discovery_prefix}/device/{self._id}/config"
        self.birth_topic = f"{discovery_prefix}/status"

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe to: its birth, and the message that is kept there of us."""
        return (self.birth_topic, self.topic)

    def announcement(self, meta: Meta, previous: bytes = b"") -> Publication:
        """The discovery message. previous: the payload that the broker keeps, so that what is gone is taken away."""
        components = dict(self._components(meta))
        for key, platform in _platforms(previous).items():
            # A component with nothing but its platform is how Home Assistant is told that one is gone.
            components.setdefault(key, {"p": platform})
        body = {
            "dev": {
                "ids": [self._id],
                "name": self._topics.node,
                "mf": "edgeinfer",
                "mdl": meta.board.model,
                "sw": meta.edgeinfer,
            },
            "o": {"name": "edgeinfer", "sw": meta.edgeinfer},
            "avty": [
                {
                    "t": self._topics.status,
                    "val_tpl": "{{ 'online' if value_json.data.state in ['online', 'degraded'] else 'offline' }}",
                }
            ],
            "qos": 1,
            "cmps": components,
        }
        return Publication(self.topic, msgspec.json.encode(body), retain=True, content_type="application/json")

    def removal(self) -> Publication:
        """Makes Home Assistant forget the node."""
        return Publication(self.topic, b"", retain=True)

    def birth_delay_s(self, received: Received, draw: Callable[[], float]) -> float | None:
        """In how many seconds to announce the node again, since Home Assistant has started; None where it has not.

        draw: 0..1 at random: a fleet does not answer all at once.
        """
        if received.topic != self.birth_topic or received.payload != b"online" or received.retain:
            return None
        return draw() * _JITTER_S

    def _components(self, meta: Meta) -> Iterator[tuple[str, Component]]:
        yield (
            "problem",
            {
                "p": "binary_sensor",
                "uniq_id": f"{self._id}_problem",
                "name": "Problem",
                "dev_cla": "problem",
                "ent_cat": "diagnostic",
                "stat_t": self._topics.status,
                "val_tpl": "{{ 'ON' if value_json.data.state == 'degraded' else 'OFF' }}",
                "json_attr_t": self._topics.status,
                "json_attr_tpl": "{{ {'reason': value_json.data.reason | default('')} | tojson }}",
            },
        )
        for pipeline in meta.pipelines:
            for key, component in self._of_pipeline(pipeline):
                name = f"{pipeline.name} {component['name']}" if len(meta.pipelines) > 1 else component["name"]
                full_key = f"{plain_id(pipeline.name)}_{key}"
                yield full_key, {**component, "name": name, "uniq_id": f"{self._id}_{full_key}"}

    def _of_pipeline(self, pipeline: PipelineInfo) -> Iterator[tuple[str, Component]]:
        if pipeline.send in ("all", "changes"):
            yield from self._of_results(pipeline)
        if pipeline.send != "none":
            yield "event", self._event(pipeline)
        yield (
            "fps",
            {
                "p": "sensor",
                "name": "Frame rate",
                "stat_t": self._topics.metrics,
                "val_tpl": f"{{{{ value_json.data.pipelines[{_quoted(pipeline.name)}].fps | round(1) }}}}",
                "unit_of_meas": "fps",
                "stat_cla": "measurement",
                "ent_cat": "diagnostic",
            },
        )
        if pipeline.snapshot is not None:
            yield "snapshot", {"p": "camera", "name": "Snapshot", "t": self._topics.snapshots(pipeline.name)}

    def _of_results(self, pipeline: PipelineInfo) -> Iterator[tuple[str, Component]]:
        topic = self._topics.results(pipeline.name)
        if pipeline.task == "anomaly":
            yield from self._of_anomaly(topic)
            return
        if pipeline.task == "vector" and (pipeline.values or not pipeline.labels):
            yield from self._of_values(topic, pipeline.values)
            return
        if pipeline.task in ("classify", "audio", "vector"):
            best = (
                f"{{{{ (value_json.data.classes[0].label if value_json.data.classes else 'nothing')[:{_STATE_MAX}] }}}}"
            )
            yield "class", {"p": "sensor", "name": "Class", "stat_t": topic, "val_tpl": best}
            return
        counts = [("objects", "Objects", "")]
        if len(pipeline.labels) <= LABELS_MAX:
            counts += [
                (f"count_{index}", label, f" | selectattr('label', 'eq', {_quoted(label)}) | list")
                for index, label in enumerate(dict.fromkeys(pipeline.labels))
            ]
        for key, name, only in counts:
            yield (
                key,
                {
                    "p": "sensor",
                    "name": name,
                    "stat_t": topic,
                    "val_tpl": f"{{{{ value_json.data.detections{only} | length }}}}",
                    "stat_cla": "measurement",
                },
            )

    def _of_anomaly(self, topic: str) -> Iterator[tuple[str, Component]]:
        is_one = "{{ 'ON' if value_json.data.anomaly.is_anomaly else 'OFF' }}"
        about = {"p": "binary_sensor", "name": "Anomaly", "dev_cla": "problem"}
        yield "anomaly", {**about, "stat_t": topic, "val_tpl": is_one}
        yield (
            "score",
            {
                "p": "sensor",
                "name": "Anomaly score",
                "stat_t": topic,
                "val_tpl": "{{ value_json.data.anomaly.score }}",
                "stat_cla": "measurement",
            },
        )

    def _of_values(self, topic: str, values: Sequence[ValueInfo]) -> Iterator[tuple[str, Component]]:
        for index, value in enumerate(values):
            # By name: one that is no number is left out of a result, and is unknown then.
            only = f"selectattr('name', 'eq', {_quoted(value.name)}) | map(attribute='value') | first | default(none)"
            unit = {"unit_of_meas": value.unit} if value.unit else {}
            yield (
                f"value_{index}",
                {
                    "p": "sensor",
                    "name": value.name,
                    "stat_t": topic,
                    "val_tpl": f"{{{{ value_json.data['values'] | {only} }}}}",
                    "stat_cla": "measurement",
                    **unit,
                },
            )

    def _event(self, pipeline: PipelineInfo) -> Component:
        data = "'label': value_json.data.label, 'count': value_json.data.count | default(none)"
        return {
            "p": "event",
            "name": "Last event",
            "stat_t": self._topics.events(pipeline.name),
            "event_types": ["appeared", "gone", "count", "class"],
            "val_tpl": f"{{{{ {{'event_type': value_json.data.kind, {data}}} | tojson }}}}",
        }


def plain_id(name: str) -> str:
    """A name in the letters that Home Assistant allows in an id, a-z, A-Z, 0-9, - and _; no two names in the same ones.

    `_` is written `__`, and what is not allowed as `_` and its hexadecimal code point in lower case, and `_` again.
    """
    return "".join(
        sign if sign.isascii() and (sign.isalnum() or sign == "-") else "__" if sign == "_" else f"_{ord(sign):x}_"
        for sign in name
    )


def _quoted(text: str) -> str:
    """A text as a string of Jinja, which knows the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _platforms(previous: bytes) -> Mapping[str, str]:
    """Component -> platform of a discovery message; empty where it is none of ours."""
    if not previous or len(previous) > _PREVIOUS_BYTES_MAX:
        return {}
    try:
        known = msgspec.json.decode(previous, type=_Previous).cmps
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return {key: known[key].p for key in list(known)[:_COMPONENTS_MAX]}


class _PreviousComponent(msgspec.Struct, frozen=True):
    p: str


class _Previous(msgspec.Struct, frozen=True):
    cmps: dict[str, _PreviousComponent]
