"""What another user may not open: real files and their modes, and a user that every Linux has."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.access import ENTER, READ, WRITE, Account, account_of
from edgeinfer.config import Config, PipelineConfig
from edgeinfer.doctor import CHECKS, Finding, user_of_unit

NOBODY = "nobody"


@pytest.fixture
def pi(sick):
    board = sick("raspberry-pi-5")
    for node in board.roots.dev.rglob("*"):
        node.chmod(0o777)
    return board


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others may enter, as those of pytest may not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def look(pi, *, user: str = NOBODY, **more) -> tuple[Finding, ...]:
    return tuple(CHECKS["user"].look(pi.patient(user=user, **more)))


def config(**words) -> Config:
    return Config(pipeline=(PipelineConfig(**{"model": "blood-cells", "source": "synthetic://noise", **words}),))


def of_a_group(node: Path) -> str:
    """Give it to a group that is not root's, and that nobody is in."""
    node.chmod(0o660)
    if os.geteuid() == 0:
        os.chown(node, 0, grp.getgrnam("daemon").gr_gid)
    return grp.getgrgid(node.stat().st_gid).gr_name


def test_where_all_is_open_nothing_is_found(pi, place):
    (place / "edgeinfer.toml").write_text("")
    assert look(pi, config=config(), config_file=place / "edgeinfer.toml") == ()


def test_nobody_else_is_examined_unless_asked_for(pi):
    assert look(pi, user=None) == ()


def test_a_user_that_is_not_there_is_an_error(pi):
    (absent,) = look(pi, user="no-such-user")
    assert (absent.severity, absent.what) == ("error", "there is no user no-such-user")
    assert absent.remedy == "sudo edgeinfer service install"


def test_each_group_that_is_missing_is_named_once_with_the_command(pi):
    for name in ("video0", "video1"):
        pi.write(f"dev/{name}", "")
        group = of_a_group(pi.folder / "dev" / name)
    (closed,) = look(pi)
    assert (closed.severity, closed.what.rpartition("/")[2]) == (
        "warning",
        f"video0 is closed to nobody (group {group})",
    )
    assert closed.remedy == f"sudo usermod -aG {group} nobody && sudo systemctl restart edgeinfer"


def test_the_camera_that_is_asked_for_is_an_error(pi):
    pi.write("dev/video7", "")
    camera = pi.folder / "dev/video7"
    of_a_group(camera)
    assert [each.severity for each in look(pi)] == ["warning"]
    # The word of a camera that is somewhere else than in /dev is of this test only.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinfer.doctor.user.camera.device_of", lambda word: (camera, None))
        assert [each.severity for each in look(pi, config=config(source="/dev/video7"))] == ["error"]


def test_a_device_that_no_group_opens_is_the_udev_rules_matter(pi):
    pi.write("dev/apex_0", "")
    (pi.folder / "dev/apex_0").chmod(0o600)
    (closed,) = look(pi)
    assert "apex_0 is closed to nobody" in closed.what
    assert closed.remedy is not None
    assert closed.remedy.startswith("sudo edgeinfer service install")


def test_a_model_in_a_folder_that_may_not_be_entered(pi, place):
    model = place / "home" / "models" / "ssd.tflite"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"")
    (place / "home").chmod(0o700)
    (closed,) = look(pi, config=config(model=str(model)))
    assert closed.what == f"{model} is closed to nobody: it may not enter {place / 'home'}"
    assert closed.remedy == f"sudo chmod o+x {place / 'home'}"
    (place / "home").chmod(0o711)
    model.chmod(0o640)
    (closed,) = look(pi, config=config(model=str(model)))
    assert (closed.what, closed.remedy) == (f"{model} is closed to nobody", f"sudo chmod o+r {model}")


def test_a_state_of_somebody_else(pi, place):
    (place / "state").mkdir()
    (place / "state" / "plans").mkdir()
    (place / "state").chmod(0o777)
    (closed,) = look(pi, state_of_user=place / "state")
    assert closed.what == f"{place}/state/plans is closed to nobody, who keeps its state there"
    assert closed.remedy == f"sudo chown -R nobody: {place}/state"
    assert look(pi, state_of_user=place / "absent") == ()


@pytest.mark.parametrize("mode", [0o700, 0o070, 0o007, 0o640, 0o351])
def test_an_account_may_what_the_kernel_lets_it(mode, place):
    """Against access(2), of a process that is not root's."""
    file = place / "file"
    file.touch()
    file.chmod(mode)
    me, who = Account("me", os.geteuid(), frozenset({os.getegid(), *os.getgroups()})), {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam(NOBODY)
        me, who = account_of(NOBODY), {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    for owner in (me.uid, 0) if who else (me.uid,):
        for group in (*me.gids, 0) if who else (min(me.gids),):
            if who:
                os.chown(file, owner, group)
            for wanted, flag in ((READ, "-r"), (WRITE, "-w"), (ENTER, "-x")):
                done = subprocess.run(["/usr/bin/test", flag, str(file)], cwd="/", **who)
                assert me.may(file, wanted) == (done.returncode == 0), (owner, group, flag)


def test_owner_group_and_others_come_in_this_order(place):
    file = place / "file"
    file.touch()
    file.chmod(0o470)
    owner, group = file.stat().st_uid or 4711, file.stat().st_gid
    if os.geteuid() == 0:
        os.chown(file, owner, group)
    assert Account("owner", owner, frozenset({group})).may(file, READ)
    assert not Account("owner", owner, frozenset({group})).may(file, WRITE)
    assert Account("member", owner + 1, frozenset({group})).may(file, READ | WRITE | ENTER)
    assert not Account("other", owner + 1, frozenset()).may(file, READ)
    assert Account("root", 0, frozenset()).may(file, WRITE)


def test_the_user_is_that_of_the_unit_and_of_its_drop_ins(pi):
    assert user_of_unit(pi.roots) is None
    pi.write("usr/lib/systemd/system/edgeinfer.service", "[Service]\nUser=edgeinfer\nGroup=edgeinfer")
    assert user_of_unit(pi.roots) == "edgeinfer"
    pi.write("etc/systemd/system/edgeinfer.service.d/override.conf", "[Service]\nUser=camera")
    assert user_of_unit(pi.roots) == "camera"


def test_the_shipped_unit_names_the_user_of_the_shipped_sysusers(pi):
    systemd = Path(__file__).parents[3] / "systemd"
    pi.write("etc/systemd/system/edgeinfer.service", (systemd / "edgeinfer.service").read_text())
    assert f"u {user_of_unit(pi.roots)} " in (systemd / "sysusers.conf").read_text()


def test_this_machines_own_user_is_found():
    me = account_of("root")
    assert (me.uid, 0 in me.gids) == (0, True)
    assert account_of("a\0b") is None
