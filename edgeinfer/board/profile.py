"""`devices/NAME.toml`: what people know of a board."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeinfer.board.roots import ENTRIES_MAX, WORD_MAX
from edgeinfer.errors import ConfigError
from edgeinfer.paths import data_folders
from edgeinfer.tomlfile import read_toml
from edgeinfer.words import unknown

GENERIC = "generic"

DEVICE_WORDS = (
    "litert:cpu",
    "litert:cpu:plain",
    "tflite:cpu",
    "tflite:cpu:plain",
    "onnx:cpu",
    "litert:edgetpu",
    "litert:edgetpu:usb",
    "litert:edgetpu:pci",
    "litert:gpu",
    "onnx:cuda",
    "onnx:tensorrt",
    "onnx:openvino",
    "onnx:webgpu",
    "openvino:cpu",
    "openvino:gpu",
    "openvino:npu",
)
_OUR_RUNTIMES = frozenset(word.partition(":")[0] for word in DEVICE_WORDS) | {"fake"}

Text = Annotated[str, Meta(min_length=1, max_length=500)]
Celsius = Annotated[float, Meta(gt=0, lt=200)]
DeviceWord = Annotated[str, Meta(pattern=r"^[a-z0-9_]+(:\S+)?$", max_length=WORD_MAX)]


class Dmi(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Patterns (`*`, `?`) for a PC's firmware and CPU; all that are given must fit."""

    vendor: Text | None = None
    product: Text | None = None
    cpu: Text | None = None

    def patterns(self) -> tuple[str, ...]:
        return tuple(pattern for pattern in (self.vendor, self.product, self.cpu) if pattern is not None)


class Match(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How a board is recognised: any one of these. compatible, model: patterns for the device tree."""

    compatible: tuple[Text, ...] = ()
    model: tuple[Text, ...] = ()
    dmi: tuple[Dmi, ...] = ()


class ProfileCluster(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Cores that are alike and share a clock. big: the ones to compute on."""

    core: Text
    cpus: Annotated[tuple[Annotated[int, Meta(ge=0, lt=ENTRIES_MAX)], ...], Meta(min_length=1)]
    big: bool


class Cpu(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    cores: Annotated[int, Meta(ge=1, lt=ENTRIES_MAX)] | None = None
    clusters: tuple[ProfileCluster, ...] = ()


class Ladder(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Devices to try, the best first: per format of the model, and for models compiled for the Edge TPU."""

    tflite: tuple[DeviceWord, ...] = ()
    onnx: tuple[DeviceWord, ...] = ()
    edgetpu: tuple[DeviceWord, ...] = ()


class ProfileZone(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A thermal zone by the kernel's `type`. throttle_c: clocks go down; critical_c: the board switches off."""

    type: Text
    throttle_c: Celsius | None = None
    critical_c: Celsius | None = None


class Camera(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What to ask a camera for where the user says nothing. pixel_format: a V4L2 code."""

    source: Text | None = None
    width: Annotated[int, Meta(ge=1, le=16384)] | None = None
    height: Annotated[int, Meta(ge=1, le=16384)] | None = None
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    pixel_format: Annotated[str, Meta(pattern=r"^[A-Z0-9]{4}$")] | None = None


class Sources(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where the figures of each part are from: addresses or names of documents."""

    match: tuple[Text, ...] = ()
    cpu: tuple[Text, ...] = ()
    ladder: tuple[Text, ...] = ()
    threads: tuple[Text, ...] = ()
    thermal: tuple[Text, ...] = ()
    camera: tuple[Text, ...] = ()
    udev: tuple[Text, ...] = ()
    traps: tuple[Text, ...] = ()


class Profile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole of `devices/NAME.toml`."""

    schema: Literal["edgeinfer.device/1"]
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
    title: Text
    architecture: Literal["aarch64", "x86_64"] | None = None
    threads: Annotated[int, Meta(ge=1, le=256)] | None = None
    udev: tuple[Text, ...] = ()
    traps: tuple[Text, ...] = ()
    match: Match = Match()
    cpu: Cpu = Cpu()
    ladder: Ladder = Ladder()
    thermal: tuple[ProfileZone, ...] = ()
    camera: Camera = Camera()
    sources: Sources = Sources()


def read_profile(path: Path) -> Profile:
    """One profile. Raises ConfigError, one line that names the file and the key."""
    profile = read_toml(path, Profile, ConfigError)
    for key, problem in _problems(profile, path):
        raise ConfigError(f"{path}: {key}: {problem}")
    return profile


def _problems(profile: Profile, path: Path) -> Iterator[tuple[str, str]]:
    if profile.name != path.stem:
        yield "name", f"is {profile.name!r}, but a profile is found by its file name: call it {path.stem!r}"
    match = profile.match
    if profile.name != GENERIC and not (match.compatible or match.model or match.dmi):
        yield "match", "says nothing to recognise the board by; give compatible, model or dmi"
    for index, dmi in enumerate(match.dmi):
        if not dmi.patterns():
            yield f"match.dmi[{index}]", "is empty; give vendor, product or cpu"
    for key in ("tflite", "onnx", "edgetpu"):
        for index, word in enumerate(getattr(profile.ladder, key)):
            if not _is_device_word(word):
                yield f"ladder.{key}[{index}]", unknown("device", word, DEVICE_WORDS)
    cpus = [cpu for cluster in profile.cpu.clusters for cpu in cluster.cpus]
    if len(set(cpus)) != len(cpus):
        yield "cpu.clusters", "a CPU stands in two of them"
    elif cpus and profile.cpu.cores is not None and len(cpus) != profile.cpu.cores:
        yield "cpu.clusters", f"hold {len(cpus)} CPUs, but cpu.cores is {profile.cpu.cores}"
    for index, zone in enumerate(profile.thermal):
        if zone.throttle_c is not None and zone.critical_c is not None and zone.throttle_c > zone.critical_c:
            yield f"thermal[{index}].throttle_c", f"is {zone.throttle_c:g}, above critical_c {zone.critical_c:g}"


def _is_device_word(word: str) -> bool:
    """One of ours, an external delegate, or a word of another package's runtime."""
    return word in DEVICE_WORDS or word.startswith("litert:delegate=/") or word.partition(":")[0] not in _OUR_RUNTIMES


def load_profiles(folders: Sequence[Path] | None = None) -> dict[str, Profile]:
    """All profiles by name; the first folder to hold a name wins, and comes first. Raises ConfigError."""
    paths: dict[str, Path] = {}
    for folder in data_folders("devices") if folders is None else folders:
        for path in sorted(folder.glob("*.toml")):
            paths.setdefault(path.stem, path)
    profiles = {name: read_profile(path) for name, path in paths.items()}
    if GENERIC not in profiles:
        raise ConfigError(f"there is no profile {GENERIC!r}", hint="install edgeinfer again, its devices/ are missing")
    return profiles
