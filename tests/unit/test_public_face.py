"""What `edgeinfer` promises: a change here is a change for everyone who imports it."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path

import pytest

import edgeinfer

PROMISED = [
    "AmbiguousModel",
    "Classification",
    "ConfigError",
    "Consumer",
    "Detection",
    "DeviceNotFound",
    "EdgeInferError",
    "Model",
    "ModelError",
    "OutputError",
    "Result",
    "SourceError",
    "UsageError",
    "load",
    "run",
]


def test_the_promised_names_are_these():
    assert edgeinfer.__all__ == PROMISED


def test_the_names_are_sorted_and_few():
    assert list(edgeinfer.__all__) == sorted(edgeinfer.__all__)
    assert len(edgeinfer.__all__) <= 15


@pytest.mark.parametrize("name", PROMISED)
def test_each_name_is_there_and_documented(name):
    thing = getattr(edgeinfer, name)
    if callable(thing):
        documentation = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
        assert documentation, f"{name} has no docstring of its own"
        # What msgspec and dataclasses write when the author wrote nothing.
        assert not documentation.startswith(f"{name}("), f"{name} has no docstring of its own"


def test_dir_shows_them_all():
    assert set(edgeinfer.__all__) <= set(dir(edgeinfer))


def test_types_are_published():
    assert (Path(edgeinfer.__file__).parent / "py.typed").is_file()


def test_the_version_is_that_of_the_installed_package():
    assert edgeinfer.__version__ == version("edgeinfer")
