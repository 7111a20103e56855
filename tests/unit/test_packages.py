from __future__ import annotations

import numpy as np
import pytest

from edgeinfer import packages
from edgeinfer.packages import installed_version


def leave(site, package, version="1.0"):
    """What an installer leaves behind."""
    info = site / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return info


def test_what_is_installed_says_its_version():
    assert installed_version("numpy") == np.__version__
    assert installed_version("quantum-runtime") is None
    assert installed_version("") is None


def test_what_lost_its_metadata_has_no_version(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (leave(tmp_path, "remains") / "METADATA").unlink()
    assert installed_version("remains") is None


def test_a_package_is_looked_up_once_until_something_is_installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    info = leave(tmp_path, "fickle")
    assert installed_version("fickle") == "1.0"
    with monkeypatch.context() as patch:
        patch.setattr(packages, "version", lambda package: pytest.fail("looked up once more"))
        assert installed_version("fickle") == "1.0"
    info.rename(tmp_path / "fickle-1.0.gone")
    leave(tmp_path, "fickle", "2.0")
    assert installed_version("fickle") == "2.0"


def test_what_is_written_to_the_working_folder_is_no_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = packages.package_folders()
    (tmp_path / "results.jsonl").write_text("")
    assert packages.package_folders() == before
