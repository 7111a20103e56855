"""Which device runs a model: tried in a child process first, then opened."""

from edgeinfer.delegates.choose import open_device
from edgeinfer.delegates.failover import Failover

__all__ = ["Failover", "open_device"]
