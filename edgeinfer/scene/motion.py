"""Where boxes will be: each of their numbers moves at a constant velocity, and how sure that is (Kalman 1960)."""

from __future__ import annotations

from collections.abc import Sequence

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
# Of place, velocity and the three variances each stays what it is; a time that passes adds the others to it.
_NOTHING_PASSED = np.eye(5)


class Motion:
    """Centre x, centre y, width and height of n boxes, all in one unit of length; columns are boxes.

    The four numbers of a box know nothing of each other, so that a 2 by 2 covariance each is all there is, and a
    hundred boxes cost what one costs. All of it is one array, since a frame costs by its calls into numpy.
    """

    def __init__(self) -> None:
        # Place, velocity, and the variances: of place, of place and velocity, of velocity.
        self._state: Numbers = np.zeros((5, 4, 0))

    def __len__(self) -> int:
        return int(self._state.shape[2])

    @property
    def place(self) -> Numbers:
        """Centre x, centre y, width and height: (4, n)."""
        place: Numbers = self._state[0]
        return place

    @property
    def velocity(self) -> Numbers:
        """Of the same four, per second: (4, n)."""
        velocity: Numbers = self._state[1]
        return velocity

    def add(self, places: Numbers) -> None:
        """Boxes that were seen for the first time, (4, n), and may move anywhere."""
        new = np.zeros((5, *places.shape))
        size = _sizes(places)
        new[0], new[2], new[4] = places, (2 * _MEASURED * size) ** 2, (_FIRST_VELOCITY * size) ** 2
        self._state = np.concatenate((self._state, new), axis=2)

    def keep(self, columns: Sequence[int]) -> None:
        """Only these."""
        self._state = self._state.take(columns, axis=2)

    def predict(self, seconds: float) -> None:
        """Let that much time pass."""
        if not len(self):
            return
        turned = _TURNS_PER_S * seconds
        less_sure = np.array((_STRAYS_PER_S * seconds + turned * seconds**2 / 3, turned * seconds / 2, turned))
        grown = less_sure[:, None] * _sizes(self.place) ** 2
        passed = _NOTHING_PASSED.copy()
        passed[0, 1] = passed[3, 4] = seconds
        passed[2, 3], passed[2, 4] = 2 * seconds, seconds**2
        self._state = np.dot(passed, self._state.reshape(5, -1)).reshape(self._state.shape)
        self._state[2:] += grown[:, None]
        np.maximum(self._state[0, 2:], 1e-4, out=self._state[0, 2:])

    def correct(self, columns: Sequence[int], places: Numbers) -> None:
        """These boxes, in rising order, were seen at `places`, (4, len(columns))."""
        is_all = len(columns) == len(self)
        state = self._state if is_all else self._state.take(columns, axis=2)
        variances = state[2:4]
        gains = variances / (variances[0] + (_MEASURED * _sizes(state[0])) ** 2)
        state[:2] += gains * (places - state[0])
        state[4] -= gains[1] * variances[1]
        variances *= 1 - gains[0]
        if not is_all:
            self._state[:, :, columns] = state


def _sizes(places: Numbers) -> Numbers:
    """The longer side of each, (n,)."""
    size: Numbers = np.maximum(places[2], places[3])
    return size
