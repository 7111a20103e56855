"""Puts the units of systemd and what belongs to them in their places, and takes them away again."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeinfer.durable import replace_file, sweep
from edgeinfer.errors import OutputError, UsageError

# The program that the unit files name; an installation puts its own there.
_PROGRAM = "/usr/bin/edgeinfer"
_UNITS = ("edgeinfer.service", "edgeinfer@.service", "edgeinfer-update.service", "edgeinfer-update.timer")
_SERVICE, _TIMER = _UNITS[0], _UNITS[3]
_PLACES = {
    **{unit: f"etc/systemd/system/{unit}" for unit in _UNITS},
    "sysusers.conf": "etc/sysusers.d/edgeinfer.conf",
    "tmpfiles.conf": "etc/tmpfiles.d/edgeinfer.conf",
    "udev.rules": "etc/udev/rules.d/60-edgeinfer.rules",
}
_CONFIG, _STATE = "etc/edgeinfer", "var/lib/edgeinfer"
# What the unit's sandbox hides from it.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
# What the udev rules are for: other devices are left in peace.
_DEVICE_KINDS = ("video4linux", "media", "drm", "usb", "tty", "apex", "hailo_chardev", "accel", "dma_heap")
_COMMAND_S = 120.0
_SHOWN = (
    "ActiveState",
    "SubState",
    "StatusText",
    "Result",
    "NRestarts",
    "ActiveEnterTimestamp",
    "MemoryCurrent",
    "MainPID",
)

RunCommand = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Raises UsageError where there is no such program."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    except FileNotFoundError as missing:
        raise UsageError(f"{command[0]} is not installed here", hint="the service needs systemd") from missing
    except subprocess.TimeoutExpired as late:
        raise UsageError(f"{shlex.join(command)} took longer than {_COMMAND_S:g} s") from late


class Step(Protocol):
    """Something to do, in a line for a person, or as a script would say it."""

    @property
    def title(self) -> str: ...

    def script(self) -> str: ...

    def do(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Write:
    path: Path
    content: str

    @property
    def title(self) -> str:
        return f"wrote {self.path}"

    def script(self) -> str:
        return f"cat > {shlex.quote(str(self.path))} <<'END'\n{self.content}END"

    def do(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.path.parent, self.path.stem)
            replace_file(self.path, self.content.encode())
            self.path.chmod(0o644)
        except OSError as refused:
            raise OutputError(f"cannot write {self.path}: {refused.strerror}") from refused


@dataclass(frozen=True, slots=True)
class Remove:
    """A file, or a folder: an empty one only, unless `whole`."""

    path: Path
    whole: bool = False

    @property
    def title(self) -> str:
        return f"removed {self.path}" if not self.path.exists() else f"left {self.path}, which is not empty"

    def script(self) -> str:
        command = "rm -rf" if self.whole else "rmdir" if self.path.is_dir() else "rm -f"
        return f"{command} {shlex.quote(str(self.path))}"

    def do(self) -> None:
        try:
            if self.path.is_symlink() or not self.path.is_dir():
                self.path.unlink(missing_ok=True)
            elif self.whole:
                shutil.rmtree(self.path)
            elif not any(self.path.iterdir()):
                self.path.rmdir()
        except OSError as refused:
            raise OutputError(f"cannot remove {self.path}: {refused.strerror}") from refused


@dataclass(frozen=True, slots=True)
class Command:
    """may_fail: there is nothing to do for it, as for a unit that was never started."""

    words: tuple[str, ...]
    run: RunCommand
    may_fail: bool = False

    @property
    def title(self) -> str:
        return f"ran {shlex.join(self.words)}"

    def script(self) -> str:
        return shlex.join(self.words) + (" || true" if self.may_fail else "")

    def do(self) -> None:
        done = self.run(self.words)
        if done.returncode and not self.may_fail:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise UsageError(f"{shlex.join(self.words)} failed: {said[-1] if said else done.returncode}")


class Installation:
    """The steps of an installation below `root`. program: the command that the units start."""

    def __init__(self, root: Path = Path("/"), program: Path | None = None, run: RunCommand = run_command) -> None:
        self._root = root
        self._program = program or _own_program()
        self._run = run

    def install(self, *, now: bool = False) -> Sequence[Step]:
        """Raises UsageError where the service could not run from here."""
        self._refuse_beside_package()
        _refuse_hidden((self._program, Path(sys.prefix), Path(__file__)))
        steps: list[Step] = [Write(self._root / place, self._content(name)) for name, place in _PLACES.items()]
        steps += [
            self._command("systemd-sysusers", f"/{_PLACES['sysusers.conf']}"),
            self._command("systemd-tmpfiles", "--create", f"/{_PLACES['tmpfiles.conf']}"),
            *self._reread(),
        ]
        if now:
            steps.append(self._command("systemctl", "enable", "--now", _SERVICE, _TIMER))
        return steps

    def uninstall(self, *, purge: bool = False) -> Sequence[Step]:
        steps: list[Step] = [
            self._command("systemctl", "disable", "--now", _SERVICE, _TIMER, may_fail=True),
            self._command("systemctl", "stop", _UNITS[2], may_fail=True),
            self._command("systemctl", "stop", "edgeinfer@*.service", may_fail=True),
        ]
        wants = self._root / "etc/systemd/system/multi-user.target.wants"
        steps += [Remove(link) for link in sorted(wants.glob("edgeinfer@*.service"))]
        steps += [Remove(self._root / place) for place in _PLACES.values()]
        # Changes that somebody made stay, unless nothing shall.
        drop_ins = [self._root / f"etc/systemd/system/{unit}.d" for unit in _UNITS]
        folders = [*drop_ins, self._root / _CONFIG, self._root / _STATE]
        steps += [Remove(folder, whole=purge) for folder in folders if folder.exists()]
        steps += [*self._reread(), self._command("userdel", "edgeinfer", may_fail=True)]
        return steps

    def _reread(self) -> Iterable[Step]:
        yield self._command("systemctl", "daemon-reload")
        # A container has no devices of its own to look after.
        yield self._command("udevadm", "control", "--reload", may_fail=True)
        kinds = [f"--subsystem-match={each}" for each in _DEVICE_KINDS]
        yield self._command("udevadm", "trigger", "--action=change", *kinds, may_fail=True)

    def _command(self, *words: str, may_fail: bool = False) -> Command:
        return Command(words, self._run, may_fail)

    def _content(self, name: str) -> str:
        return (_folder() / name).read_text().replace(_PROGRAM, str(self._program))

    def _refuse_beside_package(self) -> None:
        if (self._root / "usr/lib/systemd/system" / _SERVICE).exists():
            raise UsageError(
                "the Debian package brings the service already", hint="sudo systemctl enable --now edgeinfer"
            )


def refuse_without_rights() -> None:
    """Raises UsageError where nothing could be installed."""
    if not Path("/run/systemd/system").is_dir():
        raise UsageError("systemd does not run here", hint="--dry-run shows what would be done")
    if os.geteuid() != 0:
        raise UsageError("this needs root", hint=f"sudo {_own_program()} service …, or --dry-run")


def status(run: RunCommand = run_command) -> str:
    """The service and its instances in a few lines each. Raises UsageError without systemd."""
    listed = run(("systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", "edgeinfer@*.service"))
    instances = [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]
    return "\n".join(_status_of(unit, run) for unit in (_SERVICE, *instances))


def _status_of(unit: str, run: RunCommand) -> str:
    done = run(("systemctl", "show", unit, f"--property={','.join(('LoadState', 'ConditionResult', *_SHOWN))}"))
    said = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if said.get("LoadState") != "loaded":
        return f"{unit}: not installed; sudo edgeinfer service install"
    lines = [f"{unit}: {said.get('ActiveState')} ({said.get('SubState')})"]
    if said.get("ActiveState") == "inactive" and said.get("ConditionResult") == "no":
        lines.append("  there is no configuration: write it, then systemctl start it")
    lines += [f"  {name}: {said[name]}" for name in _SHOWN[2:] if said.get(name) not in (None, "", "[not set]", "0")]
    return "\n".join(lines)


def _own_program() -> Path:
    """The `edgeinfer` beside the Python that runs this."""
    return Path(sys.executable).parent / "edgeinfer"


def _refuse_hidden(paths: Iterable[Path]) -> None:
    for path in paths:
        place = str(path.resolve())
        if any(place == hidden or place.startswith(f"{hidden}/") for hidden in _HIDDEN):
            raise UsageError(
                f"the service cannot see {place}: homes and temporary folders are hidden from it",
                hint="install into /opt: python3 -m venv /opt/edgeinfer && /opt/edgeinfer/bin/pip install edgeinfer",
            )


def _folder() -> Path:
    """Where the unit files are: in the wheel, or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    carried = package / "data" / "systemd"
    return carried if carried.is_dir() else package.parent / "systemd"
