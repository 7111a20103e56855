"""Held against the textbook's filter, one number and one box at a time."""

from __future__ import annotations

import numpy as np
import pytest

from edgeinfer.scene import motion
from edgeinfer.scene.motion import Motion


class Textbook:
    """Of one number of a box of that size: state and covariance as vectors and matrices."""

    def __init__(self, place, size):
        self.state = np.array([place, 0.0])
        self.covariance = np.diag([(2 * motion._MEASURED * size) ** 2, (motion._FIRST_VELOCITY * size) ** 2])

    def predict(self, seconds, size):
        passed = np.array([[1.0, seconds], [0.0, 1.0]])
        turned = motion._TURNS_PER_S * seconds
        strayed = motion._STRAYS_PER_S * seconds
        noise = [[strayed + turned * seconds**2 / 3, turned * seconds / 2], [turned * seconds / 2, turned]]
        self.state = passed @ self.state
        self.covariance = passed @ self.covariance @ passed.T + np.array(noise) * size**2

    def correct(self, place, size):
        seen = np.array([1.0, 0.0])
        gain = self.covariance @ seen / (seen @ self.covariance @ seen + (motion._MEASURED * size) ** 2)
        self.state = self.state + gain * (place - self.state[0])
        self.covariance = (np.eye(2) - np.outer(gain, seen)) @ self.covariance


@pytest.mark.parametrize("seen", [[0, 1, 2], [0, 2], [1]])
def test_each_number_of_each_box_is_filtered_by_the_book(seen):
    chance = np.random.default_rng(4)
    places = chance.uniform(0.2, 0.8, size=(4, 3))
    boxes = Motion()
    boxes.add(places)
    book = [[Textbook(places[number, box], max(places[2:, box])) for box in range(3)] for number in range(4)]

    def sizes():
        return [max(book[2][box].state[0], book[3][box].state[0]) for box in range(3)]

    for _ in range(20):
        seconds = chance.choice([1 / 30, 1 / 5])
        before = sizes()
        boxes.predict(seconds)
        for box in range(3):
            for number in range(4):
                book[number][box].predict(seconds, before[box])
        measured = places[:, seen] + chance.normal(0, 0.01, size=(4, len(seen)))
        before = sizes()
        boxes.correct(seen, measured)
        for column, box in enumerate(seen):
            for number in range(4):
                book[number][box].correct(measured[number, column], before[box])
        assert boxes.place == pytest.approx(np.array([[each.state[0] for each in row] for row in book]))
        assert boxes.velocity == pytest.approx(np.array([[each.state[1] for each in row] for row in book]))
