"""Where boxes will be: each of their numbers moves at a constant velocity, and how sure that is (Kalman 1960)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

# Shares of an object's size, after ByteTrack (Zhang et al. 2022) at 30 frames a second, and turned into rates so that
# a frame that is missing changes nothing: how far off a detector's box is, how far the object itself strays, and how
# its velocity changes.
_MEASURED = 1 / 20
_STRAYS_PER_S = (1 / 20) ** 2 * 30
_TURNS_PER_S = (30 / 160) ** 2 * 30
_FIRST_VELOCITY = 10 * 30 / 160


class Motion:
    """Centre x, centre y, width and height of n boxes, all in one unit of length; rows are boxes.

    place, velocity: (n, 4), the latter per second. The four numbers of a box know nothing of each other, so that a
    2 by 2 covariance each is all there is, and a hundred boxes cost what one costs.
    """

    def __init__(self) -> None:
        self.place: Numbers = np.zeros((0, 4))
        self.velocity: Numbers = np.zeros((0, 4))
        # Of place, of place and velocity, of velocity.
        self._variance: Numbers = np.zeros((3, 0, 4))

    def __len__(self) -> int:
        return len(self.place)

    def add(self, places: Numbers) -> None:
        """Boxes that were seen for the first time, and may move anywhere."""
        size = _sizes(places)
        variance = np.broadcast_to(
            np.stack([(2 * _MEASURED * size) ** 2, 0 * size, (_FIRST_VELOCITY * size) ** 2]), (3, len(places), 4)
        )
        self.place = np.concatenate((self.place, places))
        self.velocity = np.concatenate((self.velocity, np.zeros_like(places)))
        self._variance = np.concatenate((self._variance, variance), axis=1)

    def keep(self, rows: npt.NDArray[np.int64] | list[int]) -> None:
        """Only these."""
        self.place, self.velocity, self._variance = self.place[rows], self.velocity[rows], self._variance[:, rows]

    def predict(self, seconds: float) -> None:
        """Let that much time pass."""
        if not len(self.place):
            return
        size = _sizes(self.place) ** 2
        own, both, turn = self._variance
        turns = _TURNS_PER_S * size * seconds
        own += seconds * (2 * both + seconds * (turn + turns / 3)) + _STRAYS_PER_S * size * seconds
        both += seconds * (turn + turns / 2)
        turn += turns
        self.place += self.velocity * seconds
        np.maximum(self.place[:, 2:], 1e-4, out=self.place[:, 2:])

    def correct(self, rows: npt.NDArray[np.int64], places: Numbers) -> None:
        """These boxes were seen at `places`."""
        own, both, turn = self._variance[:, rows]
        total = own + (_MEASURED * _sizes(self.place[rows])) ** 2
        off = places - self.place[rows]
        gain, turn_gain = own / total, both / total
        self.place[rows] += gain * off
        self.velocity[rows] += turn_gain * off
        self._variance[:, rows] = own - gain * own, both - gain * both, turn - turn_gain * both


def _sizes(places: Numbers) -> Numbers:
    """The longer side of each, (n, 1)."""
    size: Numbers = places[:, 2:].max(axis=1, keepdims=True)
    return size
