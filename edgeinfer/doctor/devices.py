"""What computes: of the devices that `edgeinfer devices` knows those that are here, or that are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from edgeinfer.delegates.probe import DeviceRow
from edgeinfer.delegates.probe.hardware import CORAL_USB_FRESH, CORAL_USB_LOADED, usb_devices
from edgeinfer.doctor.finding import Finding, Patient, Severity

# They come with edgeinfer.
_ALWAYS = ("litert:cpu", "onnx:cpu")
_SPEED_OF_USB_2 = 480


def devices(patient: Patient) -> Iterator[Finding]:
    for row in patient.devices:
        severity = _severity(row, patient)
        if not row.usable and severity is not None:
            yield Finding(severity, f"{row.word}: {row.reason}", row.remedy)
    for each in usb_devices(patient.roots):
        is_coral = each.ids in (CORAL_USB_FRESH, CORAL_USB_LOADED)
        if is_coral and each.mbit_s.isdecimal() and int(each.mbit_s) <= _SPEED_OF_USB_2:
            said = f"the Edge TPU at {each.where} talks at {each.mbit_s} Mbit/s, a tenth of what it can"
            yield Finding("warning", said, "plug it into a USB 3 port (a blue one), without a hub or a long cable")


def _severity(row: DeviceRow, patient: Patient) -> Severity | None:
    """How bad it is that this one cannot be used; None where nobody misses it."""
    if row.word in _ALWAYS or any(each.device == row.word for each in patient.pipelines):
        return "error"
    if row.remedy is None or row.word.startswith("tflite:"):
        return None  # It is not here, nobody has made what it lacks, or there is a better one.
    if ":edgetpu" in row.word:
        return "warning"  # Somebody has bought it.
    ladder = patient.board.profile.ladder
    return "note" if row.word in (*ladder.tflite, *ladder.onnx) else None
