"""Who may use a device, and how to become one of them."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

READ, WRITE, ENTER = 4, 2, 1


@dataclass(frozen=True, slots=True)
class Account:
    """A user as the next start of a program finds it. gids: of all groups, the first one included."""

    name: str
    uid: int
    gids: frozenset[int]

    def may(self, path: Path, wanted: int) -> bool:
        """wanted: of READ, WRITE, ENTER. By owner, group and others; lists of access (ACL) are not looked at.

        Raises OSError.
        """
        if self.uid == 0:
            return True
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid in self.gids else 0
        return status.st_mode >> shift & wanted == wanted


def account_of(name: str) -> Account | None:
    """None where there is no such user."""
    try:
        known = pwd.getpwnam(name)
    except (KeyError, ValueError):
        return None
    return Account(known.pw_name, known.pw_uid, frozenset(os.getgrouplist(known.pw_name, known.pw_gid)))


def group_of(path: Path) -> str:
    """The group that a user could join to read and write a device, "" where that would not help."""
    try:
        status = path.stat()
        name = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        return ""
    may = (READ | WRITE) << 3
    return "" if name == "root" or status.st_mode & may != may else name


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
