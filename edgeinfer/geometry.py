"""Points, lines and polygons in the plane, x to the right and y down."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

Point = tuple[float, float]


def side(a: Point, b: Point, point: Point) -> float:
    """Above 0 where the point is right of the way from a to b, below 0 where it is left; 0 on it."""
    return (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])


def cross_each_other(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether a–b and c–d have a point in common."""
    of_c, of_d, of_a, of_b = side(a, b, c), side(a, b, d), side(c, d, a), side(c, d, b)
    if of_c == of_d == 0.0:  # All on one line.
        return all(max(min(a[k], b[k]), min(c[k], d[k])) <= min(max(a[k], b[k]), max(c[k], d[k])) for k in (0, 1))
    return of_c * of_d <= 0 and of_a * of_b <= 0


def distance(point: Point, a: Point, b: Point) -> float:
    """From the point to the nearest of a–b."""
    along = (b[0] - a[0], b[1] - a[1])
    length = along[0] ** 2 + along[1] ** 2
    share = ((point[0] - a[0]) * along[0] + (point[1] - a[1]) * along[1]) / length if length else 0.0
    share = max(0.0, min(1.0, share))
    return hypot(point[0] - a[0] - share * along[0], point[1] - a[1] - share * along[1])


def is_inside(point: Point, polygon: Sequence[Point]) -> bool:
    """Whether a ray from the point to the right leaves the polygon more often than it enters it."""
    inside = False
    x, y = point
    for (x_1, y_1), (x_2, y_2) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if (y_1 > y) != (y_2 > y) and x < x_1 + (y - y_1) * (x_2 - x_1) / (y_2 - y_1):
            inside = not inside
    return inside


def wrong_polygon(points: Sequence[Point]) -> str | None:
    """Why these points enclose nothing, or no one can say what; None where they do."""
    sides = list(zip(points, (*points[1:], points[0]), strict=True))
    if any(a == b for a, b in sides):
        return "two points after each other are the same"
    for first, (a, b) in enumerate(sides):
        for second in range(first + 2, len(sides)):
            is_neighbour = first == 0 and second == len(sides) - 1
            if not is_neighbour and cross_each_other(a, b, *sides[second]):
                return f"it crosses itself: side {first + 1} meets side {second + 1}"
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in sides) / 2
    return "its points lie on one line" if abs(area) < 1e-9 else None
