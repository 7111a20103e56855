"""Another user than ours, the service's most often: whether it may use what the configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeinfer.access import ENTER, READ, WRITE, Account, account_of, group_of
from edgeinfer.board import Roots
from edgeinfer.board.roots import entries, read_bytes
from edgeinfer.delegates.probe.hardware import CORAL_USB_FRESH, CORAL_USB_LOADED, nvidia_nodes, usb_devices
from edgeinfer.doctor.finding import Finding, Patient, Severity
from edgeinfer.errors import SourceError
from edgeinfer.sources import camera

UNIT = "edgeinfer.service"
# What sysusers.conf gives the service's user.
_DEVICES = (
    (".", "video[0-9]*"),
    ("dri", "renderD[0-9]*"),
    ("accel", "accel[0-9]*"),
    (".", "apex_[0-9]*"),
    (".", "hailo[0-9]*"),
    (".", "ttyUSB[0-9]*"),
    (".", "ttyACM[0-9]*"),
)
_RESTART = "sudo systemctl restart edgeinfer"


def user_of_unit(roots: Roots) -> str | None:
    """Whom the installed unit runs as, by its file and its drop-ins; None where it is not installed, or root's."""
    folders = [roots.etc / "systemd/system", roots.usr / "lib/systemd/system"]
    unit = next((folder / UNIT for folder in folders if (folder / UNIT).is_file()), None)
    if unit is None:
        return None
    drop_ins = [file for folder in reversed(folders) for file in entries(folder / f"{UNIT}.d", "*.conf")]
    lines = [line for file in (unit, *drop_ins) for line in read_bytes(file).decode(errors="replace").splitlines()]
    names = [line.partition("=")[2].strip() for line in lines if line.strip().startswith("User=")]
    return names[-1] or None if names else None


def user(patient: Patient) -> Iterator[Finding]:
    """Permissions and groups of the user that is named, or that the installed unit names."""
    if patient.user is None:
        return
    account = account_of(patient.user)
    if account is None:
        yield Finding("error", f"there is no user {patient.user}", "sudo edgeinfer service install")
        return
    yield from _state(account, patient)
    yield from _files(account, patient)
    yield from _devices(account, patient)


def _state(account: Account, patient: Patient) -> Iterator[Finding]:
    folder = patient.state_of_user
    if folder is None or not folder.is_dir():
        return  # Whoever starts the service makes it.
    for path in (folder, *entries(folder)):
        if not account.may(path, READ | WRITE | (ENTER if path.is_dir() else 0)):
            said = f"{path} is closed to {account.name}, who keeps its state there"
            yield Finding("error", said, f"sudo chown -R {account.name}: {folder}")
            return


def _files(account: Account, patient: Patient) -> Iterator[Finding]:
    """The configuration, and what it names by a path from the root on."""
    named = [] if patient.config_file is None else [str(patient.config_file.absolute())]
    for each in patient.pipelines:
        named += [each.model, *each.lighter, each.source, each.labels or ""]
    for path in dict.fromkeys(Path(word) for word in named if word.startswith("/")):
        closed = _closed(account, path)
        if closed is not None:
            right = "x" if closed.is_dir() and closed != path else "rx" if closed.is_dir() else "r"
            said = f"{path} is closed to {account.name}"
            what = said if closed == path else f"{said}: it may not enter {closed}"
            yield Finding("error", what, f"sudo chmod o+{right} {closed}")


def _closed(account: Account, path: Path) -> Path | None:
    """What is in the way: the first folder from the root on, or the file; None where it can be read, or is absent."""
    try:
        for folder in reversed(path.parents):
            if not account.may(folder, ENTER):
                return folder
        if path.is_dir():
            return None if account.may(path, READ | ENTER) else path
        return None if not path.is_file() or account.may(path, READ) else path
    except OSError:
        return None


def _devices(account: Account, patient: Patient) -> Iterator[Finding]:
    """A line for each group to join; a camera that is asked for before one that is only there."""
    asked = set(_cameras_of(patient))
    told: set[str] = set()
    for node in (*sorted(asked), *_nodes(patient.roots)):
        try:
            if account.may(node, READ | WRITE):
                continue
        except OSError:
            continue  # It is not there: that is for others to say.
        group = group_of(node)
        if group and group in told:
            continue
        told.add(group)
        said = f"{node} is closed to {account.name}"
        severity: Severity = "error" if node in asked else "warning"
        if group:
            remedy = f"sudo usermod -aG {group} {account.name} && {_RESTART}"
            yield Finding(severity, f"{said} (group {group})", remedy)
        else:
            yield Finding(
                severity, said, "sudo edgeinfer service install, whose udev rules open it, then plug it in again"
            )


def _cameras_of(patient: Patient) -> Iterator[Path]:
    for each in patient.pipelines:
        if each.source.startswith(("/dev/", "camera://")):
            try:
                yield camera.device_of(each.source)[0]
            except SourceError:
                continue


def _nodes(roots: Roots) -> Iterator[Path]:
    for folder, pattern in _DEVICES:
        yield from entries(roots.dev / folder, pattern)
    yield from nvidia_nodes(roots)
    yield from (each.node for each in usb_devices(roots) if each.ids in (CORAL_USB_FRESH, CORAL_USB_LOADED))
