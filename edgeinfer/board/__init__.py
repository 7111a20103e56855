"""The board we run on: its profile in `devices/`, and what its kernel says of it."""

from edgeinfer.board.cpu import Cluster
from edgeinfer.board.profile import DEVICE_WORDS, GENERIC, Profile, load_profiles, read_profile
from edgeinfer.board.recognise import Board, ThermalZone, recognise_board, temperatures_c
from edgeinfer.board.roots import Roots
from edgeinfer.board.vitals import Heat, Vitals, Watch

__all__ = [
    "DEVICE_WORDS",
    "GENERIC",
    "Board",
    "Cluster",
    "Heat",
    "Profile",
    "Roots",
    "ThermalZone",
    "Vitals",
    "Watch",
    "load_profiles",
    "read_profile",
    "recognise_board",
    "temperatures_c",
]
