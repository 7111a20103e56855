"""Recorded boards, with what a kernel shows when something is wrong."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeinfer.board import Roots, recognise_board
from edgeinfer.clock import Clock
from edgeinfer.doctor import Finding, Patient, examine

TESTS = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def state_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))


@dataclass
class Packages:
    """Installed packages, as a test wants them."""

    versions: dict[str, str] = field(
        default_factory=lambda: {"ai-edge-litert": "2.3.0", "onnxruntime": "1.31.1", "numpy": "2.4.6"}
    )
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    python: tuple[int, int] = (3, 11)

    def version(self, package: str) -> str | None:
        return self.versions.get(package)

    def onnx_providers(self) -> tuple[str, ...]:
        return self.providers


@dataclass
class Sick:
    """A copy of a recorded board, to which a test does something bad."""

    folder: Path
    packages: Packages = field(default_factory=Packages)

    @property
    def roots(self) -> Roots:
        return Roots(*(self.folder / name for name in ("sys", "proc", "dev", "etc", "usr", "var")))

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def patient(self, **more) -> Patient:
        board = recognise_board(self.roots, [TESTS.parent / "devices"])
        return Patient(**{"board": board, "roots": self.roots, "libraries": self.packages, "clock": Clock(), **more})

    def findings(self, check: str, **more) -> tuple[Finding, ...]:
        return dict(examine(self.patient(**more)))[check]


@pytest.fixture
def sick(tmp_path):
    def copy_of(name: str) -> Sick:
        return Sick(Path(shutil.copytree(TESTS / "boards" / name, tmp_path / name, symlinks=True)))

    return copy_of
