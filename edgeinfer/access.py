"""Who may use a device, and how to become one of them."""

from __future__ import annotations

import grp
import os
import pwd


def how_to_join(group: str) -> str:
    """What makes this user one of the group: a login that is older than that does not know of it."""
    if group not in _ours() and _user() in _members(group):
        return f"log in again: you have joined the group {group} since"
    return f"sudo usermod -aG {group} $USER, then log in again"


def _ours() -> set[str]:
    """The groups of this process."""
    names = set()
    for number in {os.getegid(), *os.getgroups()}:
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue  # Of a container that has not been told its name.
    return names


def _members(group: str) -> list[str]:
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        return []


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""
