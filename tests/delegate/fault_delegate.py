"""The library of fault_delegate.c, compiled when a test first asks for it, and what its Edge TPU computes."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.tensor import Array, TensorSpec

_SOURCE = Path(__file__).with_suffix(".c")
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared")
_64_BITS = (1 << 64) - 1


def fault_library() -> Path:
    """The compiled library; skips the test where there is no C compiler."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc or clang) to build the fault delegate with")
    if struct.calcsize("P") != 8:
        pytest.skip("the fault delegate is written for 64 bits")
    key = hashlib.sha256(_SOURCE.read_bytes() + compiler.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"edgeinfer-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"fault_delegate-{key}.so"
    if not library.exists():
        beside = library.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *_FLAGS, "-o", str(beside), str(_SOURCE), "-lm"], check=True, timeout=60)
        beside.replace(library)
    return library


def fault_unit(**options: object) -> str:
    """The unit that loads it, as in `delegate=/tmp/x.so,fault=hang,at=3`; `litert:` before it makes a device."""
    return ",".join([f"delegate={fault_library()}", *(f"{key}={value}" for key, value in options.items())])


def edgetpu_outputs(inputs: Iterable[Array], outputs: Iterable[TensorSpec]) -> list[Array]:
    """What `edgetpu-custom-op` gives, as fault_delegate.c documents it."""
    numbers = _stream(inputs)
    return [_fill(spec, numbers) for spec in outputs]


def _stream(inputs: Iterable[Array]) -> Iterator[int]:
    seed = 14695981039346656037
    for tensor in inputs:
        for byte in tensor.tobytes():
            seed = (seed ^ byte) * 1099511628211 & _64_BITS
    seed = seed or 1
    while True:
        seed ^= seed >> 12
        seed ^= seed << 25 & _64_BITS
        seed ^= seed >> 27
        yield seed * 2685821657736338717 & _64_BITS


def _fill(spec: TensorSpec, numbers: Iterator[int]) -> Array:
    count = int(np.prod(spec.shape))
    drawn = [next(numbers) for _ in range(count)]
    if spec.dtype.kind == "f":
        return np.array([each / 2**64 for each in drawn], dtype=spec.dtype).reshape(spec.shape)
    if spec.dtype.itemsize == 1:
        return np.array([each >> 56 for each in drawn], dtype=np.uint8).view(spec.dtype).reshape(spec.shape)
    return np.array([each % 100 for each in drawn], dtype=spec.dtype).reshape(spec.shape)
