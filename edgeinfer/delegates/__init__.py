"""Which device runs a model: tried in a child process first, then opened."""

from edgeinfer.delegates.choose import open_device

__all__ = ["open_device"]
