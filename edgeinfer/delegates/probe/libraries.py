"""Which packages are installed, told without running a model."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Protocol

from edgeinfer.packages import installed_version
from edgeinfer.runtimes.stderr import quiet_stderr

log = logging.getLogger(__name__)


class Libraries(Protocol):
    """python: the interpreter's version, which decides what can be installed."""

    python: tuple[int, int]

    def version(self, package: str) -> str | None:
        """Of an installed package, None where it is not."""
        ...

    def onnx_providers(self) -> tuple[str, ...]:
        """What ONNX Runtime was built with."""
        ...


class Installed:
    """The packages of this interpreter."""

    def __init__(self) -> None:
        self.python = sys.version_info[:2]

    def version(self, package: str) -> str | None:
        return installed_version(package)

    def onnx_providers(self) -> tuple[str, ...]:
        """Empty where it does not load: then no device of it is usable."""
        try:
            with quiet_stderr(log):
                return tuple(import_module("onnxruntime").get_available_providers())
        except (ImportError, AttributeError, OSError) as broken:
            # AttributeError: a folder of that name without the package.
            log.debug("onnxruntime does not load: %s", broken)
            return ()
