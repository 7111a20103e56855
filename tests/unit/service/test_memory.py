from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import _core

from edgeinfer.service import memory
from edgeinfer.service.memory import Mapping, mappings_in, unmap_code

RESIDENT = """
def resident_kib(what):
    (line,) = (each for each in open("/proc/self/status") if each.startswith(what + ":"))
    return int(line.split()[1])
"""

# Holes between what is in use: nothing that malloc gives back by itself.
HOLES = """
from edgeinfer.service.memory import give_back

pieces = [bytes(16_000) for _ in range(4_000)]
kept = pieces[::100]
del pieces
before = resident_kib("VmRSS")
give_back()
print(before - resident_kib("VmRSS"))
"""

LIBRARIES = """
import cv2
import numpy as np
from edgeinfer.service.memory import unmap_code

picture = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(64, 64, 3)
before, expected = resident_kib("RssFile"), cv2.resize(picture, (32, 32))
anonymous = resident_kib("RssAnon")
unmap_code()
assert resident_kib("RssAnon") > anonymous - 500, "what was written is gone"
print(before - resident_kib("RssFile"))
assert (cv2.resize(picture, (32, 32)) == expected).all()
unmap_code()
"""

# A page of code that holds the address of a variable, which the linker writes there once it knows where that lies.
CHANGED = """
.balign 4096
.globl address
.type address, @function
address:
    movabsq $variable, %rax
    ret
.balign 4096
.skip 4096
.data
variable: .quad 42
.section .note.GNU-stack,"",@progbits
"""
CALLED = """
import ctypes, sys
from edgeinfer.service.memory import unmap_code

address = ctypes.CDLL(sys.argv[1]).address
address.restype = ctypes.c_void_p
before = address()
unmap_code()
print(address() == before, ctypes.c_uint64.from_address(address()).value)
"""

# Whoever loads a library holds Python's lock and waits for the linker's. Not without a pause: for each of our calls we
# would wait for Python's lock, too.
LOADING = """
import _ctypes, os, sys, threading
from edgeinfer.service.memory import unmap_code

is_over = threading.Event()

def load():
    while not is_over.wait(0.0005):
        _ctypes.dlclose(_ctypes.dlopen(sys.argv[1], os.RTLD_NOW))

loader = threading.Thread(target=load)
loader.start()
for _ in range(20):
    unmap_code()
is_over.set()
loader.join()
print("done")
"""

SMAPS = """\
7f10a000-7f10c000 r-xp 00001000 fe:00 123456                     /usr/lib/lib with a space.so
Size:                  8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
7f10c000-7f10d000 r--p 00003000 fe:00 123456                     /usr/lib/lib with a space.so
Anonymous:             4 kB
7f10d000-7f20d000 rw-p 00000000 00:00 0
Anonymous:          1024 kB
7ffd1000-7ffd3000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
"""


def printed_by(program: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_between_what_is_in_use_go_back_to_the_kernel():
    assert int(printed_by(RESIDENT + HOLES)) > 30_000


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are ELF on Linux only")
def test_code_that_ran_once_goes_back_to_the_kernel_and_what_is_called_again_returns():
    assert int(printed_by(RESIDENT + LIBRARIES)) > 15_000


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="its assembler is of x86-64")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler is installed")
def test_code_into_which_the_linker_wrote_stays(tmp_path: Path):
    (tmp_path / "changed.s").write_text(CHANGED)
    library = tmp_path / "libchanged.so"
    build = ["gcc", "-shared", "-nostdlib", "-Wl,-z,notext", "-o", str(library), str(tmp_path / "changed.s")]
    subprocess.run(build, check=True, capture_output=True, timeout=60)
    assert printed_by(CALLED, str(library)).split() == ["True", "42"]


def test_mappings_are_read_as_the_kernel_writes_them():
    path = "/usr/lib/lib with a space.so"
    assert list(mappings_in(SMAPS.splitlines())) == [
        Mapping(0x7F10A000, 0x7F10C000, "r-xp", path, 0),
        Mapping(0x7F10C000, 0x7F10D000, "r--p", path, 4),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are ELF on Linux only")
def test_others_may_load_libraries_meanwhile():
    assert printed_by(LOADING, _core.__file__) == "done\n"


def test_where_the_kernel_does_not_say_what_is_mapped_nothing_is_done(monkeypatch):
    asked = []

    def refuse(name: str) -> list[str]:
        asked.append(name)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory, "_lines", refuse)
    unmap_code()
    assert asked == ["maps"]
