"""A drawn, stained blood smear under a microscope whose stage drifts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

RBC, WBC, PLATELET = "RBC", "WBC", "Platelets"

# Counts per field of view, and diameters in pixels of a 640x480 field.
RBC_PER_FIELD, WBC_PER_FIELD, PLATELETS_PER_FIELD = 15.0, 0.8, 1.6
RBC_DIAMETER, WBC_DIAMETER, PLATELET_DIAMETER = (86.0, 130.0), (120.0, 225.0), (27.0, 50.0)
FIELDS_ACROSS, FIELDS_DOWN = 4, 3
# A larger picture is a field of at most this size, enlarged: a slide takes 15 times the memory of a field.
FIELD_WIDTH_MAX, FIELD_HEIGHT_MAX = 960, 720
VISIBLE_MIN = 0.4
DRIFT_PX_S = (23.0, 7.0)
GRAIN_MIDDLE = 12

# Optical densities in blue, green and red: how much of the lamp's light the stain swallows.
OD_RBC = (0.325, 0.335, 0.155)
OD_NUCLEUS = (0.03, 0.66, 0.62)
OD_GRANULES = (0.02, 0.17, 0.05)
OD_PLATELET = (0.03, 0.38, 0.40)


@dataclass(frozen=True, slots=True)
class Cell:
    """One visible cell; the box is 0..1 of the image, clipped to it."""

    label: str
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Placed:
    """A cell's centre and diameter on the slide, in slide pixels."""

    label: str
    x: float
    y: float
    diameter: float


@dataclass(frozen=True, slots=True)
class _Sprite:
    """What one cell does to the light, and the half-open pixel box of its body inside the sprite."""

    density: Floats
    cover: Floats
    body_xyxy: tuple[int, int, int, int]


class BloodSmear:
    """An endless slide: it wraps around in both directions, and the view drifts over it.

    The same seed, size and time give the same picture, in any order of calls.
    """

    def __init__(self, width: int = 640, height: int = 480, *, seed: int = 0) -> None:
        if width < 16 or height < 16:
            raise ValueError(f"a smear of {width}x{height} pixels is too small to draw")
        rng = np.random.default_rng(seed)
        self.width, self.height = width, height
        shrink = max(1.0, width / FIELD_WIDTH_MAX, height / FIELD_HEIGHT_MAX)
        across, down = max(16, round(width / shrink)), max(16, round(height / shrink))
        self._field_size = (across, down)
        scale = min(across / 640.0, down / 480.0)
        self._slide_size = (FIELDS_ACROSS * across, FIELDS_DOWN * down)
        self._drift_px_s = (DRIFT_PX_S[0] * scale, DRIFT_PX_S[1] * scale)
        self._sway_px = 30.0 * scale
        self._start = (float(rng.uniform(0, across)), float(rng.uniform(0, down)))
        slide, self._boxes, self._labels = _draw_slide(rng, self._slide_size, scale)
        # One field of padding, so that every view is a plain slice.
        self._slide: Pixels = np.pad(slide, ((0, down), (0, across), (0, 0)), mode="wrap")
        self._lamp = _draw_lamp(rng, width, height)
        self._grain = _draw_grain(rng, width, height)

    def cells_at(self, t_s: float) -> tuple[Cell, ...]:
        """The cells in view at a time, leaving out those of which too little is visible."""
        left, top = self._view_at(t_s)
        across, down = self._slide_size
        size = self._boxes[:, 2:] - self._boxes[:, :2]
        # Shifted by a cell's own size, so that one which hangs over the left edge is not wrapped away.
        x0 = (self._boxes[:, 0] - left + size[:, 0]) % across - size[:, 0]
        y0 = (self._boxes[:, 1] - top + size[:, 1]) % down - size[:, 1]
        limits = (*self._field_size, *self._field_size)
        seen = np.stack([x0, y0, x0 + size[:, 0], y0 + size[:, 1]], axis=1).clip(0, limits)
        area = (seen[:, 2] - seen[:, 0]) * (seen[:, 3] - seen[:, 1])
        enough = area >= VISIBLE_MIN * size[:, 0] * size[:, 1]
        cells = []
        for index in np.flatnonzero(enough):
            x_min, y_min, x_max, y_max = (seen[index] / limits).tolist()
            cells.append(Cell(self._labels[int(index)], (x_min, y_min, x_max, y_max)))
        return tuple(cells)

    def draw(self, t_s: float, out: Pixels | None = None) -> Pixels:
        """The picture at a time, blue-green-red, written into `out` when given."""
        shape = (self.height, self.width, 3)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8:
            raise ValueError(f"out is {out.shape} {out.dtype}, the smear {shape} uint8")
        left, top = self._view_at(t_s)
        across, down = self._field_size
        view = self._slide[top : top + down, left : left + across]
        if self._field_size != (self.width, self.height):
            view = np.asarray(cv2.resize(view, (self.width, self.height)), np.uint8)
        lit = cv2.multiply(view, self._lamp, scale=1.0 / 255.0)
        np.copyto(out, cv2.addWeighted(lit, 1.0, self._grain_at(t_s), 1.0, -GRAIN_MIDDLE))
        return out

    def _view_at(self, t_s: float) -> tuple[int, int]:
        """Top left corner of the view in whole slide pixels, so that boxes and picture agree exactly."""
        across, down = self._slide_size
        x = self._start[0] + self._drift_px_s[0] * t_s
        y = self._start[1] + self._drift_px_s[1] * t_s + self._sway_px * math.sin(0.21 * t_s)
        return math.floor(x) % across, math.floor(y) % down

    def _grain_at(self, t_s: float) -> Pixels:
        """Sensor noise: one noisy plate, laid elsewhere at every millisecond."""
        tick = round(t_s * 1000.0) & 0xFFFFFFFF
        mixed = (tick * 2654435761) & 0xFFFFFFFF
        down = (mixed >> 8) % (self._grain.shape[0] - self.height + 1)
        across = (mixed >> 20) % (self._grain.shape[1] - self.width + 1)
        return self._grain[down : down + self.height, across : across + self.width]


def _draw_slide(
    rng: np.random.Generator, size: tuple[int, int], scale: float
) -> tuple[Pixels, npt.NDArray[np.float64], tuple[str, ...]]:
    """The whole slide, with the box (may reach over the edge) and the label of each cell on it."""
    across, down = size
    light = np.array([206.0, 208.0, 208.0], np.float32) + rng.normal(0, 2.5, 3).astype(np.float32)
    stain = rng.uniform(0.85, 1.12)
    density = _clouds(rng, size) * np.float32(0.035)
    boxes: list[tuple[float, float, float, float]] = []
    labels: list[str] = []
    for cell in _place_cells(rng, size, scale):
        sprite = _SPRITES[cell.label](rng, cell.diameter, scale)
        top = int(cell.y) - sprite.cover.shape[0] // 2
        left = int(cell.x) - sprite.cover.shape[1] // 2
        rows = np.arange(top, top + sprite.cover.shape[0]) % down
        columns = np.arange(left, left + sprite.cover.shape[1]) % across
        _lay(density, np.ix_(rows, columns), sprite, float(stain))
        x0, y0, x1, y1 = sprite.body_xyxy
        boxes.append((left + x0, top + y0, left + x1, top + y1))
        labels.append(cell.label)
    blurred = cv2.GaussianBlur(density, (0, 0), max(0.3, 1.1 * scale), borderType=cv2.BORDER_REFLECT)
    # In place: the density of a whole slide is tens of megabytes.
    shine = np.asarray(blurred, np.float32)
    np.exp(np.negative(shine, out=shine), out=shine)
    slide = np.multiply(shine, light, out=shine).clip(0, 255, out=shine).astype(np.uint8)
    return slide, np.array(boxes, np.float64), tuple(labels)


def _lay(density: Floats, where: tuple[npt.NDArray[np.intp], ...], sprite: _Sprite, stain: float) -> None:
    """Lay one cell over what is there; overlapping cells are a little darker, not twice as dark."""
    below = density[where]
    above = sprite.density * np.float32(stain)
    both = np.maximum(below, above) + np.float32(0.25) * np.minimum(below, above)
    density[where] = both * (1 - sprite.cover[..., None]) + above * sprite.cover[..., None]


def _place_cells(rng: np.random.Generator, size: tuple[int, int], scale: float) -> list[_Placed]:
    """White cells with room around them, red cells in clumps, platelets in the gaps."""
    fields = FIELDS_ACROSS * FIELDS_DOWN
    placed: list[_Placed] = []
    plan = (
        (WBC, WBC_PER_FIELD, WBC_DIAMETER, 1.1),
        (RBC, RBC_PER_FIELD, RBC_DIAMETER, 0.68),
        (PLATELET, PLATELETS_PER_FIELD, PLATELET_DIAMETER, 0.95),
    )
    for label, per_field, (small, large), apart in plan:
        for _ in range(round(per_field * fields)):
            diameter = float(rng.uniform(small, large)) * scale
            spot = _free_spot(rng, size, placed, diameter, apart)
            if spot is not None:
                placed.append(_Placed(label, spot[0], spot[1], diameter))
    # White cells lie on top, red ones below.
    return sorted(placed, key=lambda cell: (RBC, PLATELET, WBC).index(cell.label))


def _free_spot(
    rng: np.random.Generator, size: tuple[int, int], placed: list[_Placed], diameter: float, apart: float
) -> tuple[float, float] | None:
    """A place whose neighbours are far enough, or None when the slide is full; red cells like company."""
    across, down = size
    others = np.array([(cell.x, cell.y, cell.diameter) for cell in placed], np.float64).reshape(-1, 3)
    near = np.array([cell.label == RBC for cell in placed], bool)
    room = np.where(near, apart, max(apart, 0.95))
    for _ in range(40):
        x, y = float(rng.uniform(0, across)), float(rng.uniform(0, down))
        if apart < 0.9 and near.any() and rng.random() < 0.65:
            friend = others[int(rng.choice(np.flatnonzero(near)))]
            turn, step = rng.uniform(0, 2 * math.pi), rng.uniform(0.7, 1.0) * (diameter + friend[2]) / 2
            x, y = (friend[0] + step * math.cos(turn)) % across, (friend[1] + step * math.sin(turn)) % down
        dx = np.abs(others[:, 0] - x)
        dy = np.abs(others[:, 1] - y)
        gap = np.hypot(np.minimum(dx, across - dx), np.minimum(dy, down - dy))
        if bool(np.all(gap >= room * (others[:, 2] + diameter) / 2)):
            return x, y
    return None


def _red_cell(rng: np.random.Generator, diameter: float, scale: float) -> _Sprite:
    """A disc, paler in the middle: from hardly to a mere ring."""
    rho = _blob(rng, diameter, squeeze=float(rng.uniform(0.78, 1.0)), wobble=0.045)
    soft = float(rng.uniform(2.5, 6.0)) * scale * 2 / diameter
    body = _step(1.0 - rho, soft)
    pallor = float(rng.choice([0.05, 0.12, 0.3, 0.62], p=[0.35, 0.3, 0.2, 0.15]))
    thickness = 1.0 - pallor * np.exp(-((rho / rng.uniform(0.4, 0.6)) ** 4))
    thickness += 0.14 * np.exp(-(((rho - 0.9) / 0.07) ** 2))
    depth = rng.uniform(0.8, 1.05) if pallor < 0.5 else rng.uniform(0.45, 0.75)
    density = _stained(body * thickness * np.float32(depth), OD_RBC)
    for _ in range(int(rng.poisson(1.1))):
        _add_speck(rng, density, diameter, scale)
    return _Sprite(density, np.zeros_like(rho), _bounds(rho))


def _white_cell(rng: np.random.Generator, diameter: float, scale: float) -> _Sprite:
    """A purple nucleus, round or in lobes, in granular cytoplasm."""
    rho = _blob(rng, diameter, squeeze=float(rng.uniform(0.86, 1.0)), wobble=0.03)
    body = _step(1.0 - rho, 7.0 * scale * 2 / diameter)
    kind = rng.random()
    if kind < 0.35:
        nucleus = _step(rng.uniform(0.86, 0.95) - rho * (1 + 0.12 * _texture(rng, rho.shape, 10)), 0.12)
    else:
        nucleus = _lobes(rng, rho.shape, diameter, int(rng.integers(2, 6)))
    nucleus *= _step(0.97 - rho, 0.08)
    granules = 1.0 + 0.35 * _texture(rng, rho.shape, 28)
    chromatin = 1.0 + 0.14 * _texture(rng, rho.shape, 12)
    tint = np.float32(rng.uniform(0.5, 1.5))
    density = _stained(body * granules * tint, OD_GRANULES) * (1 - nucleus[..., None])
    density += _stained(nucleus * chromatin * np.float32(rng.uniform(0.9, 1.2)), OD_NUCLEUS)
    return _Sprite(density.clip(0, None), body * np.float32(0.9), _bounds(rho))


def _platelet(rng: np.random.Generator, diameter: float, scale: float) -> _Sprite:
    """A small purple grain with a frayed edge."""
    rho = _blob(rng, diameter, squeeze=float(rng.uniform(0.68, 1.0)), wobble=0.09)
    body = _step(1.02 - rho, min(0.7, 7.0 * scale * 2 / diameter))
    core = np.exp(-((rho / 0.62) ** 2)).astype(np.float32)
    grains = 1.0 + 0.25 * _texture(rng, rho.shape, 9)
    amount = body * (0.5 + 0.6 * core) * grains * np.float32(rng.uniform(0.65, 1.1))
    return _Sprite(_stained(amount, OD_PLATELET), body * np.float32(0.3), _bounds(rho))


_SPRITES = {RBC: _red_cell, WBC: _white_cell, PLATELET: _platelet}


def _blob(rng: np.random.Generator, diameter: float, *, squeeze: float, wobble: float) -> Floats:
    """Distance from the centre of an uneven ellipse: 0 in the middle, 1 on its edge."""
    radius = diameter / 2
    half = math.ceil(radius * 1.35) + 2
    ys, xs = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    tilt = float(rng.uniform(0, math.pi))
    u = xs * math.cos(tilt) + ys * math.sin(tilt)
    v = (ys * math.cos(tilt) - xs * math.sin(tilt)) / squeeze
    turn = np.arctan2(v, u)
    edge = np.ones_like(turn)
    for waves in (2, 3, 4, 5):
        edge += rng.normal(0, wobble / math.sqrt(waves)) * np.cos(waves * turn + rng.uniform(0, 2 * math.pi))
    return np.asarray(np.hypot(u, v) / (radius * edge.clip(0.7, 1.3)), np.float32)


def _lobes(rng: np.random.Generator, shape: tuple[int, ...], diameter: float, count: int) -> Floats:
    """Lobes of a nucleus on a bent string, merged where they touch."""
    ys, xs = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    middle_y, middle_x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    start = rng.uniform(0, 2 * math.pi)
    sweep = rng.uniform(0.55, 0.75) * 2 * math.pi
    size = diameter * {2: 0.25, 3: 0.215, 4: 0.19}.get(count, 0.175)
    nucleus = np.zeros(shape, np.float32)
    for index in range(count):
        turn = start + sweep * index / max(1, count - 1)
        reach = diameter * rng.uniform(0.19, 0.25)
        dx, dy = xs - middle_x - reach * math.cos(turn), ys - middle_y - reach * math.sin(turn)
        radius = size * rng.uniform(0.85, 1.15)
        nucleus = np.maximum(nucleus, _step(1.0 - np.hypot(dx, dy * rng.uniform(0.8, 1.2)) / radius, 0.22))
    return nucleus


def _add_speck(rng: np.random.Generator, density: Floats, diameter: float, scale: float) -> None:
    """A refractile speck on a red cell: a dark pink ring with a bright middle."""
    middle = (density.shape[0] - 1) / 2
    turn, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.3) * diameter
    ys, xs = np.mgrid[: density.shape[0], : density.shape[1]].astype(np.float32)
    dx, dy = xs - middle - reach * math.cos(turn), ys - middle - reach * math.sin(turn)
    away = np.hypot(dx, dy * rng.uniform(0.7, 1.4))
    radius = rng.uniform(3.0, 8.0) * scale
    ring = np.exp(-(((away - radius) / (1.6 * scale)) ** 2)).astype(np.float32)
    hole = np.exp(-((away / (0.7 * radius)) ** 2)).astype(np.float32)
    density += _stained(ring * np.float32(rng.uniform(0.1, 0.35)), (0.3, 1.0, 0.5))
    density -= density * (hole * np.float32(rng.uniform(0.2, 0.8)))[..., None]


def _step(inside: npt.NDArray[np.floating], soft: float) -> Floats:
    """0 outside, 1 inside, smooth over a width of `soft` around 0."""
    ramp = (inside / max(soft, 1e-6) + 0.5).clip(0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _stained(amount: npt.NDArray[np.floating], stain: tuple[float, float, float]) -> Floats:
    return np.asarray(amount[..., None] * np.array(stain, np.float32), np.float32)


def _bounds(rho: Floats) -> tuple[int, int, int, int]:
    """The box around all pixels inside the edge."""
    rows, columns = np.flatnonzero((rho <= 1).any(axis=1)), np.flatnonzero((rho <= 1).any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _texture(rng: np.random.Generator, shape: tuple[int, ...], grains: int) -> Floats:
    """Smooth noise of about `grains` grains across, mostly within -2..2."""
    coarse = rng.normal(0, 1, (grains, grains)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def _clouds(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Uneven background of the slide, without a seam where it wraps."""
    across, down = size
    width, height = across // FIELDS_ACROSS, down // FIELDS_DOWN
    coarse = rng.uniform(0, 1, (2 * FIELDS_DOWN, 2 * FIELDS_ACROSS)).astype(np.float32)
    wrapped = np.pad(coarse, 2, mode="wrap")
    fine = cv2.resize(wrapped, (across + 2 * width, down + 2 * height), interpolation=cv2.INTER_CUBIC)
    return np.repeat(fine[height : height + down, width : width + across, None], 3, axis=2).astype(np.float32)


def _draw_lamp(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """How much light reaches each pixel, of 255: bright near the middle, dim in the corners."""
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    u = xs / width - 0.5 - rng.uniform(-0.1, 0.1)
    v = ys / height - 0.5 - rng.uniform(-0.1, 0.1)
    fall = 1.0 - rng.uniform(0.12, 0.24) * (u * u + v * v)
    return np.ascontiguousarray(np.repeat((255 * fall).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))


def _draw_grain(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Slightly blurred noise around GRAIN_MIDDLE, larger than the view so that it can be shifted."""
    shape = (height + 64, width + 64, 3)
    noise = cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), 0.8)
    return np.asarray((noise / noise.std() * 1.5 + GRAIN_MIDDLE).clip(0, 24).round(), np.uint8)
