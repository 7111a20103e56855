from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Holes between what is in use: nothing that malloc gives back by itself.
PROGRAM = """
from edgeinfer.service.memory import give_back

def resident_kib():
    (line,) = (each for each in open("/proc/self/status") if each.startswith("VmRSS:"))
    return int(line.split()[1])

pieces = [bytes(16_000) for _ in range(4_000)]
kept = pieces[::100]
del pieces
before = resident_kib()
give_back()
print(before - resident_kib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_between_what_is_in_use_go_back_to_the_kernel():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert int(done.stdout) > 30_000, done.stderr
