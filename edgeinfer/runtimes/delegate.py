"""External delegates of TFLite: libraries that take operators off the CPU, the Edge TPU's among them."""

from __future__ import annotations

import ctypes
import os
import re
import traceback
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from edgeinfer.errors import DeviceNotFound
from edgeinfer.runtimes.vendor import first_line

LIBRARY_VARIABLE = "EDGEINFER_EDGETPU_LIBRARY"

_EDGETPU_LIBRARY = "libedgetpu.so.1"
_EDGETPU = re.compile(r"edgetpu(?::(usb|pci|\d+))?")
_EXTERNAL = "delegate="
_SYMBOLS = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")
_OWN_OPTIONS = ("kernels", "library")

# What the runtime says after the delegate's own words, without so much as a space between.
_AFTERWORDS = re.compile(r"Restored original execution plan|Encountered unresolved custom op|Node number \d+ \(")

_HINTS = {
    "usb": "plug it in: lsusb should list 1a6e:089a or 18d1:9302",
    "pci": "ls /dev/apex_* should list it, and you should be in the group apex",
}
_ANY_HINT = "plug it in: lsusb should list 1a6e:089a or 18d1:9302, or ls /dev/apex_* a card"


@dataclass(frozen=True, slots=True)
class Delegate:
    """A delegate as it was asked for. device: the word for it; options: what its library is told.

    edgetpu: it only takes models that were compiled for it.
    """

    device: str
    library: str
    options: Mapping[str, str] = field(default_factory=dict)
    edgetpu: bool = False
    absent: str = "the library made no delegate and gave no reason"
    hint: str | None = None


def parse_delegate(name: str, unit: str, driver: Mapping[str, str]) -> Delegate | None:
    """The delegate that a unit stands for, None where it stands for none. Raises DeviceNotFound.

    `edgetpu`, `edgetpu:usb`, `edgetpu:pci` and `edgetpu:N` are libedgetpu, or the library that the driver option
    `library` or the variable EDGEINFER_EDGETPU_LIBRARY names. `delegate=/path/lib.so,key=value` is any other.
    Driver options that are not our own are handed to the library too.
    """
    extra = {key: value for key, value in driver.items() if key not in _OWN_OPTIONS}
    edgetpu = _EDGETPU.fullmatch(unit)
    if edgetpu is not None:
        library = driver.get("library") or os.environ.get(LIBRARY_VARIABLE) or _EDGETPU_LIBRARY
        return _edgetpu(f"{name}:{unit}", library, edgetpu[1], extra)
    if not unit.startswith(_EXTERNAL):
        return None
    library, *pairs = unit[len(_EXTERNAL) :].split(",")
    options = [pair.partition("=") for pair in pairs]
    if not library or not all(key and equals for key, equals, _ in options):
        raise DeviceNotFound(
            f"{name}:{unit} is not understood", hint=f"write it as in {name}:delegate=/path/lib.so,key=value"
        )
    return Delegate(f"{name}:{unit}", library, {key: value for key, _, value in options} | extra)


def _edgetpu(device: str, library: str, which: str | None, extra: Mapping[str, str]) -> Delegate:
    wanted = {} if which is None else {"device": f":{which}" if which.isdecimal() else which}
    place = {None: "no Edge TPU answers", "usb": "no Edge TPU answers on USB", "pci": "no Edge TPU answers on PCI"}
    absent = place.get(which, f"no Edge TPU has the number {which}")
    return Delegate(device, library, wanted | dict(extra), True, absent, _HINTS.get(which or "", _ANY_HINT))


def load_delegate(module: ModuleType, wanted: Delegate) -> Any:
    """The runtime's own object, which destroys the delegate when nothing holds it any more. Raises DeviceNotFound."""
    _check_library(wanted)
    try:
        return module.load_delegate(wanted.library, dict(wanted.options))
    except (OSError, ValueError, AttributeError, RuntimeError) as refusal:
        # "Failed to load delegate from LIBRARY", then on the next line what the library said, if anything.
        said = str(refusal).partition("\n")[2].strip()
        reason = first_line(ValueError(said)) if said else wanted.absent
        raise DeviceNotFound(f"{wanted.device} is not to be had: {reason}", hint=wanted.hint) from refusal


def _check_library(wanted: Delegate) -> None:
    """The runtimes would find the same, and print an AttributeError from `__del__` besides."""
    try:
        library = ctypes.PyDLL(wanted.library)
    except OSError as missing:
        mend = f"install libedgetpu1-std, or name the library in {LIBRARY_VARIABLE}" if wanted.edgetpu else None
        raise DeviceNotFound(f"{wanted.device} does not load: {first_line(missing)}", hint=mend) from missing
    lacking = [symbol for symbol in _SYMBOLS if not hasattr(library, symbol)]
    if lacking:
        raise DeviceNotFound(f"{wanted.device}: {wanted.library} is no TFLite delegate, it has no {lacking[0]}")


def keep_alive(delegate: Any, interpreter: Any) -> None:
    """Hold the delegate for as long as the native interpreter lives, which a view of its memory may prolong."""
    # An Interpreter lets go of its delegates first when such a view is left, and the delegate's kernels come after.
    finalizer = weakref.finalize(interpreter._interpreter, _let_go, delegate)
    finalizer.atexit = False


def _let_go(delegate: Any) -> None:
    """The last reference is the one that this call holds."""


def vendor_words(refusal: BaseException) -> str:
    """What the delegate said, without what the runtime added."""
    said = _AFTERWORDS.split(str(refusal))[0].strip()
    return first_line(ValueError(said) if said else refusal)


def let_go_in_frames(error: BaseException) -> None:
    """Whoever keeps an error must not keep the device: its frames hold the delegate, and a device has one owner."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__


@dataclass(frozen=True, slots=True)
class Claim:
    """Which of a model's operators run on the delegate, of its first graph."""

    claimed: int
    operators: int

    def __str__(self) -> str:
        return f"{self.claimed} of {self.operators} operators"


class Claims:
    """What a delegate took of an interpreter's graph, looked at before its tensors are allocated.

    A delegate takes its operators when the interpreter is made, and each connected group of them becomes one operator
    named DELEGATE at the end of the list. XNNPACK does the same, under the same name, when tensors are allocated.
    """

    def __init__(self, interpreter: Any) -> None:
        self._groups = {_tensors(each, "outputs") for each in _operators(interpreter) if _is_group(each)}

    def __bool__(self) -> bool:
        return bool(self._groups)

    def settled(self, interpreter: Any) -> Claim:
        """What it still holds after allocation, where a changed shape may have cost it everything."""
        operators = _operators(interpreter)
        own = [each for each in operators if _is_group(each) and _tensors(each, "outputs") in self._groups]
        plain = [each for each in operators if not _is_group(each)]
        return Claim(sum(_size(group, plain) for group in own), len(plain))


def _operators(interpreter: Any) -> list[dict[str, Any]]:
    # Not public, and the same in tflite-runtime 2.14 and in LiteRT; where it goes away, a test says so.
    listed: list[dict[str, Any]] = interpreter._get_ops_details()
    return listed


def _is_group(operator: Mapping[str, Any]) -> bool:
    return bool(operator["op_name"] == "DELEGATE")


def _tensors(operator: Mapping[str, Any], side: str) -> tuple[int, ...]:
    return tuple(int(index) for index in operator[side])


def _size(group: Mapping[str, Any], plain: list[dict[str, Any]]) -> int:
    """How many operators lie between a group's inputs and its outputs: the list keeps those that were replaced."""
    makers = {index: place for place, each in enumerate(plain) for index in _tensors(each, "outputs")}
    given = set(_tensors(group, "inputs"))
    found: set[int] = set()
    wanted = [index for index in _tensors(group, "outputs") if index not in given]
    while wanted:
        maker = makers.get(wanted.pop())
        if maker is None or maker in found:
            continue
        found.add(maker)
        wanted.extend(index for index in _tensors(plain[maker], "inputs") if index not in given)
    return len(found)
