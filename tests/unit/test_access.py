"""How a user gets into a group, and that a login does not learn of it by itself."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from edgeinfer.access import how_to_join


def test_who_is_not_in_a_group_is_told_how_to_join():
    assert how_to_join("no-such-group") == "sudo usermod -aG no-such-group $USER, then log in again"


def test_who_has_joined_since_is_told_to_log_in_again(monkeypatch):
    """A line of /etc/group as usermod leaves it, beside a process that began before."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    theirs = grp.struct_group(("video", "x", 4711, [me]))
    monkeypatch.setattr("edgeinfer.access.grp.getgrnam", lambda _: theirs)
    monkeypatch.setattr("edgeinfer.access.os.getgroups", list)
    assert how_to_join("video") == "log in again: you have joined the group video since"


def test_who_is_in_the_group_and_still_refused_is_not_sent_away_to_log_in(monkeypatch):
    mine = grp.getgrgid(os.getegid())
    if pwd.getpwuid(os.geteuid()).pw_name in mine.gr_mem:
        pytest.skip("this user is listed in their own group")
    assert how_to_join(mine.gr_name).startswith("sudo usermod")
