"""What a Raspberry Pi's firmware holds back, and why: the flags that `vcgencmd get_throttled` prints."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from edgeinfer.board.roots import Roots, entries, read_int, read_line

UNDER_VOLTAGE = 1 << 0
THROTTLED = 1 << 2
SOFT_LIMIT = 1 << 3
UNDER_VOLTAGE_WAS = 1 << 16
THROTTLED_WAS = 1 << 18

# _IOWR(100, 0, char *) of a 64-bit kernel, and a message of one tag: its size, a request, the tag, the size of its
# value, the size of what is asked, the value, the end. A value of 0 leaves the flags of the past as they are.
_IOCTL_PROPERTY = 0xC0086400
_MESSAGE = struct.Struct("=7I")
_GET_THROTTLED = 0x00030046
_ANSWERED = 0x80000000

# Where kernels before hwmon's `rpi_volt` show it; later ones warn in their log that this is no longer kept up.
_OLD_FILE = "devices/platform/soc/soc:firmware/get_throttled"


def throttled_flags(roots: Roots) -> int | None:
    """The flags now; of the firmware, else what the kernel passes on of it. None where this is no Raspberry Pi."""
    asked = _ask(roots.dev / "vcio") if roots.is_here else None
    if asked is not None:
        return asked
    for folder in entries(roots.sys / "class/hwmon", "hwmon*"):
        if read_line(folder / "name") == "rpi_volt":
            return UNDER_VOLTAGE if read_int(folder / "in0_lcrit_alarm") else 0
    try:
        return int(read_line(roots.sys / _OLD_FILE), 16)
    except ValueError:
        return None


def _ask(mailbox: Path) -> int | None:
    """By the mailbox of the firmware, which the group video may use."""
    try:
        handle = os.open(mailbox, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        answer = fcntl.ioctl(handle, _IOCTL_PROPERTY, _MESSAGE.pack(_MESSAGE.size, 0, _GET_THROTTLED, 4, 0, 0, 0))
    except OSError:
        return None
    finally:
        os.close(handle)
    _, code, _, _, _, flags, _ = _MESSAGE.unpack(answer)
    return int(flags) if code == _ANSWERED else None
