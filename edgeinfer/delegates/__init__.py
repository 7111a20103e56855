"""Which device runs a model: tried in a child process first, then opened."""

from edgeinfer.delegates.choose import open_device, threads_for
from edgeinfer.delegates.failover import Failover
from edgeinfer.delegates.golden import load_golden
from edgeinfer.delegates.installed import runtime_versions
from edgeinfer.delegates.ladder import is_exclusive
from edgeinfer.delegates.shared import Devices, Shared, Turns

__all__ = [
    "Devices",
    "Failover",
    "Shared",
    "Turns",
    "is_exclusive",
    "load_golden",
    "open_device",
    "runtime_versions",
    "threads_for",
]
