"""Every device that this board has or could have: usable, or why not and what mends it."""

from edgeinfer.delegates.probe.libraries import Installed, Libraries
from edgeinfer.delegates.probe.rows import DeviceRow, probe

__all__ = ["DeviceRow", "Installed", "Libraries", "probe"]
