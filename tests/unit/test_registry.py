"""Drivers by name: ours, unknown ones, and ones whose packages are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeinfer.errors import DeviceNotFound, SourceError, UsageError
from edgeinfer.registry import Registry
from edgeinfer.words import nearest, unknown


def registry(module: str = "json:loads", **extras: str) -> Registry[object]:
    return Registry("source", {"camera": module, "video": "json:dumps"}, extras=extras)


def write_module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)


def test_a_driver_is_imported_when_it_is_asked_for():
    import json

    assert registry().get("camera") is json.loads


def test_names_are_sorted():
    assert registry().names() == ("camera", "video")


def test_an_unknown_word_names_the_nearest():
    with pytest.raises(UsageError, match=r"^unknown source 'camra': did you mean 'camera'\?$"):
        registry().get("camra")


def test_a_word_like_none_names_them_all():
    with pytest.raises(UsageError, match=r"^unknown source 'zzz': known: camera, video$"):
        registry().get("zzz")


def test_the_caller_says_which_error():
    with pytest.raises(SourceError):
        registry().get("camra", error=SourceError)


def test_a_missing_extra_names_the_pip_command(tmp_path, monkeypatch):
    write_module(tmp_path, "needs_openvino", "import no_such_openvino.runtime\n", monkeypatch)
    drivers = Registry[object]("runtime", {"openvino": "needs_openvino:Open"}, extras={"no_such_openvino": "openvino"})
    with pytest.raises(DeviceNotFound) as caught:
        drivers.get("openvino", error=DeviceNotFound)
    assert str(caught.value) == (
        "runtime 'openvino' needs the module 'no_such_openvino'; pip install 'edgeinfer[openvino]'"
    )


def test_a_missing_module_of_the_core_names_the_package_itself(tmp_path, monkeypatch):
    write_module(tmp_path, "needs_core", "import no_such_cv2\n", monkeypatch)
    with pytest.raises(UsageError, match=r"needs the module 'no_such_cv2'; pip install edgeinfer$"):
        registry("needs_core:open").get("camera")


def test_a_missing_system_library_is_one_line(tmp_path, monkeypatch):
    text = "raise ImportError('libGL.so.1: cannot open shared object file')\n"
    write_module(tmp_path, "needs_libgl", text, monkeypatch)
    with pytest.raises(UsageError, match=r"^source 'camera' does not load: libGL\.so\.1: cannot open"):
        registry("needs_libgl:open").get("camera")


def test_a_table_that_points_at_nothing_is_a_bug_not_a_usage_error():
    with pytest.raises(ModuleNotFoundError):
        registry("edgeinfer.no_such_module:open").get("camera")


@pytest.mark.parametrize(
    ("word", "found"),
    [("vidoe", "video"), ("video", "video"), ("camera1", "camera"), ("q", None), ("", None)],
)
def test_nearest(word, found):
    assert nearest(word, ["camera", "video"]) == found


def test_unknown_is_one_line():
    assert "\n" not in unknown("device", "nothing", ["cpu", "gpu"])
