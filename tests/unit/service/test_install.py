"""What an installation writes and runs, below a folder in the root's place."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeinfer.errors import UsageError
from edgeinfer.service import install
from edgeinfer.service.install import Installation, status

UNITS = Path(__file__).parents[3] / "systemd"
PROGRAM = Path("/opt/edgeinfer/bin/edgeinfer")


class Shell:
    """Remembers what it was told to run; `answers` maps the first two words to (status, output)."""

    def __init__(self, **answers: tuple[int, str]) -> None:
        self.ran: list[str] = []
        self._answers = answers

    def __call__(self, command):
        self.ran.append(" ".join(command))
        code, said = self._answers.get(command[0].replace("-", "_"), (0, ""))
        return subprocess.CompletedProcess(command, code, stdout=said, stderr="")


@pytest.fixture(autouse=True)
def _seen(monkeypatch):
    """As if this checkout were where a service can see it."""
    monkeypatch.setattr(install, "_HIDDEN", ("/home/nobody-here",))


def files_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def test_it_writes_the_units_with_its_own_program_and_reads_them_in(tmp_path):
    shell = Shell()
    for step in Installation(tmp_path, PROGRAM, shell).install(now=True):
        step.do()
    assert files_below(tmp_path) == {
        "etc/systemd/system/edgeinfer.service",
        "etc/systemd/system/edgeinfer@.service",
        "etc/systemd/system/edgeinfer-update.service",
        "etc/systemd/system/edgeinfer-update.timer",
        "etc/sysusers.d/edgeinfer.conf",
        "etc/tmpfiles.d/edgeinfer.conf",
        "etc/udev/rules.d/60-edgeinfer.rules",
    }
    unit = (tmp_path / "etc/systemd/system/edgeinfer.service").read_text()
    assert f"ExecStart={PROGRAM} service run --config /etc/edgeinfer/edgeinfer.toml" in unit
    assert "/usr/bin/edgeinfer" not in unit
    assert "systemctl daemon-reload" in shell.ran
    assert shell.ran[-1] == "systemctl enable --now edgeinfer.service edgeinfer-update.timer"


def test_a_dry_run_shows_every_file_and_command_and_does_nothing(tmp_path):
    shell = Shell()
    script = "\n".join(step.script() for step in Installation(tmp_path, PROGRAM, shell).install())
    assert files_below(tmp_path) == set()
    assert shell.ran == []
    for path in ("edgeinfer.service", "edgeinfer@.service", "sysusers.d", "tmpfiles.d", "udev/rules.d"):
        assert path in script
    assert "WatchdogSec=" in script
    assert "systemd-sysusers /etc/sysusers.d/edgeinfer.conf" in script


def test_an_uninstall_leaves_nothing_but_what_others_wrote(tmp_path):
    for step in Installation(tmp_path, PROGRAM, Shell()).install():
        step.do()
    config = tmp_path / "etc/edgeinfer/edgeinfer.toml"
    config.parent.mkdir()
    config.write_text("[[pipeline]]\n")
    shell = Shell()
    for step in Installation(tmp_path, PROGRAM, shell).uninstall():
        step.do()
    assert files_below(tmp_path) == {"etc/edgeinfer/edgeinfer.toml"}
    assert shell.ran[0] == "systemctl disable --now edgeinfer.service edgeinfer-update.timer"
    for step in Installation(tmp_path, PROGRAM, Shell()).uninstall(purge=True):
        step.do()
    assert files_below(tmp_path) == set()


def test_a_command_that_fails_is_one_line(tmp_path):
    shell = Shell(systemd_sysusers=(1, "Failed to read\nuser edgeinfer: no id left"))
    (step,) = (step for step in Installation(tmp_path, PROGRAM, shell).install() if "sysusers" in step.title[:20])
    with pytest.raises(UsageError, match=r"^systemd-sysusers .* failed: user edgeinfer: no id left"):
        step.do()


def test_a_program_that_the_sandbox_hides_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(UsageError, match=r"cannot see /home/nobody-here/bin/edgeinfer.*venv /opt/edgeinfer"):
        Installation(tmp_path, Path("/home/nobody-here/bin/edgeinfer"), Shell()).install()


def test_beside_the_debian_package_it_is_refused(tmp_path):
    unit = tmp_path / "usr/lib/systemd/system/edgeinfer.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    with pytest.raises(UsageError, match="package brings the service already"):
        Installation(tmp_path, PROGRAM, Shell()).install()


def test_the_status_is_a_few_lines():
    said = "LoadState=loaded\nActiveState=active\nSubState=running\nStatusText=door 20 fps\nNRestarts=0\nMainPID=7\n"
    assert status(Shell(systemctl=(0, said))).startswith(
        "edgeinfer.service: active (running)\n  StatusText: door 20 fps\n  MainPID: 7"
    )
    assert "not installed" in status(Shell(systemctl=(0, "LoadState=not-found\n")))
    waiting = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nConditionResult=no\n"
    assert "there is no configuration" in status(Shell(systemctl=(0, waiting)))


def settings(unit: str) -> list[str]:
    lines = (UNITS / unit).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_an_instance_differs_from_the_service_in_its_own_places_only():
    one, many = settings("edgeinfer.service"), settings("edgeinfer@.service")
    assert len(one) == len(many)
    for single, instance in zip(one, many, strict=True):
        if single != instance:
            assert re.search("edgeinfer", single), single
            assert "%i" in instance, instance


# The updater tries a model without a network, and needs namespaces for that.
@pytest.mark.parametrize(
    ("unit", "score_max"),
    [("edgeinfer.service", 1.7), ("edgeinfer@.service", 1.7), ("edgeinfer-update.service", 1.9)],
)
def test_the_sandbox_is_as_tight_as_was_promised(unit, score_max, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine (Debian package systemd)")
    text = (UNITS / unit).read_text().replace("/usr/bin/edgeinfer", "/bin/true")
    (tmp_path / unit).write_text(text)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(tmp_path / unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    score = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    if score is None:
        pytest.skip(f"this systemd-analyze cannot do it offline: {done.stderr.strip()[-200:]}")
    assert float(score.group(1)) <= score_max
    checked = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit)], capture_output=True, text=True, timeout=60
    )
    assert unit not in checked.stderr, checked.stderr
