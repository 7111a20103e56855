"""Which board this is, by what its firmware and its kernel say."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from edgeinfer.board import cpu
from edgeinfer.board.cpu import Cluster, Processor
from edgeinfer.board.profile import GENERIC, Dmi, Match, Profile, ProfileZone, load_profiles
from edgeinfer.board.roots import WORD_MAX, Roots, entries, printable, read_bytes, read_int, read_line

_COMPATIBLE_MAX = 64
_TRIPS_MAX = 16

# What makers of PCs leave standing in their firmware.
_PLACEHOLDERS = re.compile(
    r"(?i)default string|to be filled.*|system (manufacturer|product name|version)|o\.?e\.?m\.?|n/a"
)


@dataclass(frozen=True, slots=True)
class ThermalZone:
    """A temperature sensor; the limits are the kernel's, else the profile's."""

    path: Path
    type: str
    now_c: float | None = None
    throttle_c: float | None = None
    critical_c: float | None = None

    def temperature_c(self) -> float | None:
        """Read now; `now_c` is of the time when the board was recognised. None where the sensor does not answer."""
        return _celsius(self.path / "temp")


@dataclass(frozen=True, slots=True)
class Board:
    """recognised_by: what of the board fitted the profile, None where it is only generic."""

    profile: Profile
    recognised_by: str | None
    model: str
    compatible: tuple[str, ...]
    architecture: str
    cpu: str
    cores: int
    clusters: tuple[Cluster, ...]
    features: tuple[str, ...]
    memory_bytes: int | None
    thermal: tuple[ThermalZone, ...]


def recognise_board(roots: Roots | None = None, folders: Sequence[Path] | None = None) -> Board:
    """The board with the profile that fits it best, `generic` where none does.

    Raises ConfigError for a broken profile; of the kernel's files any may be missing or nonsense.
    """
    roots = roots or Roots()
    identity = _identity(roots)
    profile, recognised_by = _fitting(load_profiles(folders), identity)
    clusters = cpu.clusters(roots, identity.processors, identity.architecture)
    return Board(
        profile=profile,
        recognised_by=recognised_by,
        model=identity.name(),
        compatible=identity.compatible,
        architecture=identity.architecture,
        cpu=cpu.describe(clusters) if identity.architecture == "aarch64" else identity.cpu or "unknown",
        cores=sum(len(cluster.cpus) for cluster in clusters),
        clusters=clusters,
        features=cpu.features(identity.processors),
        memory_bytes=_memory_bytes(roots),
        thermal=tuple(_thermal(roots, profile)),
    )


def temperatures_c(board: Board) -> dict[str, float]:
    """What its sensors say now, by type; of several of one type the hottest. Empty where the kernel shows none."""
    found: dict[str, float] = {}
    for zone in board.thermal:
        now_c = zone.temperature_c()
        if now_c is not None:
            found[zone.type] = max(now_c, found.get(zone.type, now_c))
    return found


@dataclass(frozen=True, slots=True)
class _Identity:
    """All that a board can be recognised by."""

    compatible: tuple[str, ...]
    model: str
    vendors: tuple[str, ...]
    products: tuple[str, ...]
    cpu: str
    architecture: str
    processors: tuple[Processor, ...]

    def name(self) -> str:
        firmware = " ".join(dict.fromkeys((*self.vendors[:1], *self.products[:1])))
        return self.model or firmware or "unknown"


def _identity(roots: Roots) -> _Identity:
    processors = tuple(cpu.processors(roots))
    tree = roots.proc / "device-tree"
    if not read_bytes(tree / "compatible"):
        tree = roots.sys / "firmware/devicetree/base"
    compatible = read_bytes(tree / "compatible").split(b"\0")
    return _Identity(
        compatible=tuple(text for text in (printable(raw[:WORD_MAX]) for raw in compatible[:_COMPATIBLE_MAX]) if text),
        model=printable(read_bytes(tree / "model", WORD_MAX).split(b"\0")[0]),
        vendors=_dmi(roots, "sys_vendor", "board_vendor"),
        products=_dmi(roots, "product_name", "board_name"),
        cpu=next((" ".join(one["model name"].split()) for one in processors if one.get("model name")), ""),
        architecture=_architecture(roots, processors),
        processors=processors,
    )


def _dmi(roots: Roots, *names: str) -> tuple[str, ...]:
    said = (read_line(roots.sys / "class/dmi/id" / name) for name in names)
    return tuple(text for text in said if text and not _PLACEHOLDERS.fullmatch(text))


def _architecture(roots: Roots, processors: Sequence[Processor]) -> str:
    for one in processors:
        if "flags" in one:
            return "x86_64" if "lm" in one["flags"].split() else "i686"
        if one.get("CPU architecture", "").isdecimal():
            return "aarch64" if int(one["CPU architecture"][:4]) >= 8 else "armv7l"
    return platform.machine() if roots.proc == Path("/proc") else "unknown"


# How well a profile fits, the smallest is the best: the board itself before its chip, an exact name before a
# pattern, more words before fewer.
_Fit = tuple[int, bool, int, int]


def _fitting(profiles: Mapping[str, Profile], identity: _Identity) -> tuple[Profile, str | None]:
    best: tuple[_Fit, Profile, str] | None = None
    # A user's folders come first, and of two that fit equally well the first is kept.
    for profile in profiles.values():
        for fit, what in _fits(profile.match, identity):
            if best is None or fit < best[0]:
                best = (fit, profile, what)
    if best is None:
        return profiles[GENERIC], None
    return best[1], best[2]


def _fits(match: Match, identity: _Identity) -> Iterator[tuple[_Fit, str]]:
    for level, name in enumerate(identity.compatible):
        for pattern in match.compatible:
            if fnmatchcase(name, pattern):
                yield (level, name != pattern, 0, -len(pattern)), f"device tree: {name}"
    for pattern in match.model:
        if fnmatchcase(identity.model, pattern):
            yield (0, identity.model != pattern, 1, -len(pattern)), f"device tree model: {identity.model}"
    for dmi in match.dmi:
        said = _said(dmi, identity)
        if said is not None:
            level = 0 if dmi.product else 1 if dmi.cpu else 2
            patterns = dmi.patterns()
            yield (
                (level, set(patterns) != set(said), -len(patterns), -sum(map(len, patterns))),
                "DMI: " + ", ".join(said),
            )


def _said(dmi: Dmi, identity: _Identity) -> tuple[str, ...] | None:
    """What the firmware says to each pattern; None where one finds nothing."""
    said = []
    for pattern, words in (
        (dmi.vendor, identity.vendors),
        (dmi.product, identity.products),
        (dmi.cpu, (identity.cpu,)),
    ):
        if pattern is not None:
            word = next((word for word in words if fnmatchcase(word, pattern)), None)
            if word is None:
                return None
            said.append(word)
    return tuple(said)


def _memory_bytes(roots: Roots) -> int | None:
    found = re.search(rb"^MemTotal:\s*(\d{1,15}) kB", read_bytes(roots.proc / "meminfo"), re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def _thermal(roots: Roots, profile: Profile) -> Iterator[ThermalZone]:
    known = {zone.type: zone for zone in profile.thermal}
    for path in entries(roots.sys / "class/thermal", "thermal_zone*"):
        kind = read_line(path / "type")
        if not kind:
            continue
        limits = known.get(kind, ProfileZone(kind))
        yield ThermalZone(
            path=path,
            type=kind,
            now_c=_celsius(path / "temp"),
            throttle_c=_trip_c(path, "passive") or limits.throttle_c,
            critical_c=_trip_c(path, "critical") or limits.critical_c,
        )


def _trip_c(zone: Path, kind: str) -> float | None:
    """The lowest of that kind."""
    trips = [
        _celsius(zone / f"trip_point_{index}_temp")
        for index in range(_TRIPS_MAX)
        if read_line(zone / f"trip_point_{index}_type") == kind
    ]
    # A driver reports 0 or less for a trip that is switched off.
    real = [trip for trip in trips if trip is not None and trip > 0]
    return min(real, default=None)


def _celsius(path: Path) -> float | None:
    value = read_int(path)
    return None if value is None or abs(value) > 1_000_000 else value / 1000
