"""What systemd hears."""

from __future__ import annotations

import socket

import pytest

from edgeinfer.service.notify import Notifier


def test_assignments_and_the_status_come_as_one_datagram(systemd):
    systemd.notifier.tell("READY=1", status="door 20 fps")
    assert systemd.hear() == ["READY=1", "STATUS=door 20 fps"]


def test_a_status_stays_one_line_and_short(systemd):
    systemd.notifier.tell(status="a\nREADY=1" + "x" * 5000)
    (line,) = systemd.hear()
    assert line.startswith("STATUS=a READY=1x")
    assert len(line) < 1100


def test_an_abstract_socket_is_reached():
    name = "edgeinfer-test-notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{name}")
        notifier = Notifier({"NOTIFY_SOCKET": f"@{name}"})
        notifier.tell("READY=1")
        assert heard.recv(100) == b"READY=1"
        notifier.close()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_where_nobody_listens_nothing_happens(environment):
    notifier = Notifier(environment)
    notifier.tell("READY=1")
    notifier.close()
    assert not notifier.is_heard


def test_a_listener_that_went_away_is_no_fault_of_ours(tmp_path):
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.tell("READY=1")
    notifier.close()
    notifier.close()
    notifier.tell("READY=1")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdogs_time_is_that_of_this_process(environment, expected):
    assert Notifier(environment, pid=7).watchdog_s == expected
