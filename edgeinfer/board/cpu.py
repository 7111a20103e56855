"""The CPUs of a board: which are alike, which are fast, and what all of them can do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from edgeinfer.board.roots import ENTRIES_MAX, Roots, entries, printable, read_bytes, read_int, read_line

_CPUINFO_BYTES_MAX = 1 << 20
_BIG_SHARE = 0.8

_CORES = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD49: "Neoverse-N2",
    0xD4F: "Neoverse-V2",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
}
# Made to save power beside faster ones: what tells them apart on a kernel that gives no capacities.
_SLOW_CORES = frozenset({"Cortex-A35", "Cortex-A53", "Cortex-A55", "Cortex-A510", "Cortex-A520"})
_ARM_LTD = 0x41

# What makes a kernel for quantised or half-precision numbers faster, in the kernel's own words.
_FEATURES = (
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
    *("sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
)

Processor = Mapping[str, str]
"""The fields that /proc/cpuinfo gives of one CPU."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """CPUs that are alike. capacity: as the scheduler rates them, the fastest is 1024."""

    core: str
    cpus: tuple[int, ...]
    big: bool
    capacity: int | None = None
    max_mhz: int | None = None


def processors(roots: Roots) -> Iterator[dict[str, str]]:
    """The blocks of /proc/cpuinfo that describe a processor."""
    text = read_bytes(roots.proc / "cpuinfo", _CPUINFO_BYTES_MAX).decode(errors="replace")
    for block in islice(re.split(r"\n\s*\n", text), ENTRIES_MAX):
        pairs = (line.partition(":") for line in block.splitlines())
        fields = {printable(key.encode()): printable(value.encode()) for key, colon, value in pairs if colon}
        if fields.get("processor", "").isdecimal():
            yield fields


def clusters(roots: Roots, processors: Sequence[Processor], architecture: str) -> tuple[Cluster, ...]:
    """The CPUs that are switched on; at least one, whatever is missing."""
    folder = roots.sys / "devices/system/cpu"
    numbers = [int(path.name[3:]) for path in entries(folder, "cpu[0-9]*") if path.name[3:].isdecimal()]
    # A power mode may have switched some of them off.
    online = _cpu_list(read_line(folder / "online"))
    numbers = (
        [number for number in numbers if number in online]
        or numbers
        or [int(one["processor"][:6]) for one in processors]
        or [0]
    )
    if architecture == "x86_64":
        return _x86_clusters(roots, numbers)
    names = {int(one["processor"][:6]): _core_name(one) for one in processors}
    groups: dict[tuple[str, ...], Cluster] = {}
    for number in numbers:
        cpu = folder / f"cpu{number}"
        name = names.get(number) or next((name for name in names.values() if name), "unknown")
        capacity, max_khz = read_int(cpu / "cpu_capacity"), read_int(cpu / "cpufreq/cpuinfo_max_freq")
        max_mhz = None if max_khz is None else max_khz // 1000
        neighbours = read_line(cpu / "topology/cluster_cpus_list") or read_line(cpu / "topology/physical_package_id")
        key = (name, str(capacity), str(max_mhz), neighbours)
        known = groups.get(key, Cluster(name, (), False, capacity, max_mhz))
        groups[key] = replace(known, cpus=(*known.cpus, number))
    fastest = max(groups.values(), key=_speed)
    return tuple(replace(cluster, big=_is_big(cluster, fastest)) for cluster in groups.values())


def _is_big(cluster: Cluster, fastest: Cluster) -> bool:
    """Whether it keeps up with the fastest: of two alike one is often clocked a few percent lower."""
    if cluster.capacity and fastest.capacity:
        return cluster.capacity >= _BIG_SHARE * fastest.capacity
    return cluster.core == fastest.core and (cluster.max_mhz or 0) >= _BIG_SHARE * (fastest.max_mhz or 0)


def _x86_clusters(roots: Roots, numbers: Sequence[int]) -> tuple[Cluster, ...]:
    """Hybrid CPUs have a list of each kind. Clocks do not tell: single cores are allowed a little more."""
    present = set(numbers)
    kinds = [
        (core, tuple(sorted(_cpu_list(read_line(roots.sys / f"devices/{kind}/cpus")) & present)))
        for kind, core in (("cpu_core", "P-core"), ("cpu_atom", "E-core"))
    ]
    found = [(core, cpus) for core, cpus in kinds if cpus]
    if sum(len(cpus) for _, cpus in found) != len(present):
        found = [("core", tuple(sorted(present)))]
    folder = roots.sys / "devices/system/cpu"
    clusters = []
    for index, (core, cpus) in enumerate(found):
        clocks = [read_int(folder / f"cpu{number}/cpufreq/cpuinfo_max_freq") or 0 for number in cpus]
        capacities = [read_int(folder / f"cpu{number}/cpu_capacity") or 0 for number in cpus]
        clusters.append(Cluster(core, cpus, index == 0, max(capacities) or None, max(clocks) // 1000 or None))
    return tuple(clusters)


def _cpu_list(text: str) -> set[int]:
    """`0-3,8` as a set."""
    numbers: set[int] = set()
    for first, last in re.findall(r"(\d{1,5})(?:-(\d{1,5}))?", text):
        numbers.update(range(int(first), min(int(last or first), ENTRIES_MAX) + 1))
    return numbers


def _core_name(processor: Processor) -> str:
    try:
        maker, part = int(processor["CPU implementer"][:18], 16), int(processor["CPU part"][:18], 16)
    except (KeyError, ValueError):
        return ""
    return _CORES.get(part, "") if maker == _ARM_LTD else ""


def _speed(cluster: Cluster) -> tuple[int, bool, int]:
    return (cluster.capacity or 0, cluster.core not in _SLOW_CORES, cluster.max_mhz or 0)


def describe(clusters: Sequence[Cluster]) -> str:
    counts: dict[str, int] = {}
    for cluster in sorted(clusters, key=lambda cluster: not cluster.big):
        counts[cluster.core] = counts.get(cluster.core, 0) + len(cluster.cpus)
    return " + ".join(f"{count} x {core}" for core, count in counts.items())


def features(processors: Sequence[Processor]) -> tuple[str, ...]:
    """Those that every CPU has: a thread may run on any of them."""
    said = [one.get("Features") or one.get("flags") for one in processors]
    each = [set(words.split()) for words in said if words]
    common = set.intersection(*each) if each else set()
    return tuple(feature for feature in _FEATURES if feature in common)
