"""Labelled pictures: BCCD's and drawn ones, and the batches made of them."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeinfer.sources.smear import BloodSmear

from .model import HEIGHT, LABELS, WIDTH

GREY = 114
SIDE_MIN_PX = 3.0
KEPT_MIN = 0.3

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture of the model's size, RGB, with boxes in its pixels."""

    name: str
    pixels: npt.NDArray[np.uint8]
    boxes_xyxy: Floats
    labels: npt.NDArray[np.int64]


def load_bccd(root: Path, listed: str) -> list[Sample]:
    """The pictures of one of BCCD's lists (train, val, test) without its degenerate boxes."""
    names = (root / "ImageSets" / "Main" / f"{listed}.txt").read_text().split()
    return [_load_one(root, name) for name in names]


def _load_one(root: Path, name: str) -> Sample:
    picture = cv2.imread(str(root / "JPEGImages" / f"{name}.jpg"), cv2.IMREAD_COLOR)
    if picture is None:
        raise FileNotFoundError(root / "JPEGImages" / f"{name}.jpg")
    scale = np.array([WIDTH / picture.shape[1], HEIGHT / picture.shape[0]] * 2, np.float32)
    boxes, labels = [], []
    for thing in ET.parse(root / "Annotations" / f"{name}.xml").iterfind("object"):
        box = [float(thing.findtext(f"bndbox/{key}") or 0) for key in ("xmin", "ymin", "xmax", "ymax")]
        if box[2] - box[0] >= 2 * SIDE_MIN_PX and box[3] - box[1] >= 2 * SIDE_MIN_PX:
            boxes.append(box)
            labels.append(LABELS.index(thing.findtext("name") or ""))
    return _sample(name, np.asarray(picture, np.uint8), np.array(boxes, np.float32).reshape(-1, 4) * scale, labels)


def draw_smears(seeds: range, views: int) -> list[Sample]:
    """Drawn pictures, `views` per slide, with the boxes they were drawn from."""
    samples = []
    for seed in seeds:
        smear = BloodSmear(2 * WIDTH, 2 * HEIGHT, seed=seed)
        for view in range(views):
            # Far enough apart to show another part of the slide each time.
            t_s = 61.8 * view + seed % 7
            cells = smear.cells_at(t_s)
            boxes = np.array([cell.box_xyxy for cell in cells], np.float32).reshape(-1, 4)
            boxes *= np.array([WIDTH, HEIGHT] * 2, np.float32)
            labels = [LABELS.index(cell.label) for cell in cells]
            samples.append(_sample(f"smear-{seed}-{t_s:g}", smear.draw(t_s), boxes, labels))
    return samples


def _sample(name: str, picture: npt.NDArray[np.uint8], boxes_xyxy: Floats, labels: list[int]) -> Sample:
    small = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    pixels = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)
    return Sample(name, pixels, boxes_xyxy, np.array(labels, np.int64))


def as_tensor(samples: list[Sample]) -> Tensor:
    """RGB 0..1, NCHW in channel-last memory."""
    pixels = torch.from_numpy(np.stack([sample.pixels for sample in samples]))
    return pixels.permute(0, 3, 1, 2).float() / 255.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step learns from; boxes in pixels, `real` is false where they are padding."""

    images: Tensor
    boxes_xyxy: Tensor
    labels: Tensor
    real: Tensor


@dataclass(frozen=True, slots=True)
class Mix:
    """How batches are made up."""

    size: int = 16
    drawn_share: float = 0.15
    mosaic_share: float = 0.5
    plain_after: float = 0.8


def batches(photos: list[Sample], drawn: list[Sample], steps: int, mix: Mix, seed: int) -> Iterator[Batch]:
    """`steps` batches, each prepared while the one before is learnt from."""
    rng = np.random.default_rng(seed)

    def prepare(step: int) -> Batch:
        mosaic_share = mix.mosaic_share if step < mix.plain_after * steps else 0.1
        made = [_one(rng, photos, drawn, mix.drawn_share, mosaic_share) for _ in range(mix.size)]
        return collate(made)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(prepare, 0)
        for step in range(1, steps + 1):
            batch = coming.result()
            coming = pool.submit(prepare, step)
            yield batch


def collate(samples: list[Sample]) -> Batch:
    most = max(1, *(len(sample.labels) for sample in samples))
    boxes = np.zeros((len(samples), most, 4), np.float32)
    labels = np.zeros((len(samples), most), np.int64)
    real = np.zeros((len(samples), most), bool)
    for row, sample in enumerate(samples):
        count = len(sample.labels)
        boxes[row, :count], labels[row, :count], real[row, :count] = sample.boxes_xyxy, sample.labels, True
    return Batch(as_tensor(samples), torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(real))


def _one(
    rng: np.random.Generator, photos: list[Sample], drawn: list[Sample], drawn_share: float, mosaic_share: float
) -> Sample:
    pool = drawn if drawn and rng.random() < drawn_share else photos
    if rng.random() < mosaic_share:
        sample = _mosaic(rng, [pool[int(rng.integers(len(pool)))] for _ in range(4)])
    else:
        sample = _moved(rng, pool[int(rng.integers(len(pool)))])
    return _recoloured(rng, sample)


def _moved(rng: np.random.Generator, sample: Sample) -> Sample:
    """Flipped, scaled, stretched a little and shifted."""
    scale = math.exp(rng.uniform(math.log(0.7), math.log(1.4)))
    middle = (WIDTH * rng.uniform(0.4, 0.6), HEIGHT * rng.uniform(0.4, 0.6))
    return _warped(rng, sample, scale, middle, (0, 0, WIDTH, HEIGHT))


def _mosaic(rng: np.random.Generator, four: list[Sample]) -> Sample:
    """Four pictures around a random point."""
    x, y = int(WIDTH * rng.uniform(0.3, 0.7)), int(HEIGHT * rng.uniform(0.3, 0.7))
    windows = ((0, 0, x, y), (x, 0, WIDTH, y), (0, y, x, HEIGHT), (x, y, WIDTH, HEIGHT))
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    boxes, labels = [], []
    for sample, window in zip(four, windows, strict=True):
        x0, y0, x1, y1 = window
        scale = math.exp(rng.uniform(math.log(0.6), math.log(1.25)))
        free_x, free_y = abs(WIDTH * scale - (x1 - x0)) / 2, abs(HEIGHT * scale - (y1 - y0)) / 2
        middle = ((x0 + x1) / 2 + rng.uniform(-free_x, free_x), (y0 + y1) / 2 + rng.uniform(-free_y, free_y))
        part = _warped(rng, sample, scale, middle, window)
        pixels[y0:y1, x0:x1] = part.pixels[y0:y1, x0:x1]
        boxes.append(part.boxes_xyxy)
        labels.append(part.labels)
    return Sample("mosaic", pixels, np.concatenate(boxes), np.concatenate(labels))


def _warped(
    rng: np.random.Generator,
    sample: Sample,
    scale: float,
    middle: tuple[float, float],
    window: tuple[int, int, int, int],
) -> Sample:
    """The picture flipped by chance, scaled, with its middle put at `middle`; boxes clipped to `window`."""
    stretch = math.exp(rng.uniform(-0.08, 0.08))
    sx = scale * stretch * (1 if rng.random() < 0.5 else -1)
    sy = scale / stretch * (1 if rng.random() < 0.5 else -1)
    move = np.array([[sx, 0, middle[0] - sx * WIDTH / 2], [0, sy, middle[1] - sy * HEIGHT / 2]], np.float32)
    pixels = cv2.warpAffine(
        sample.pixels, move, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderValue=(GREY, GREY, GREY)
    )
    xs = np.sort(sample.boxes_xyxy[:, 0::2] * sx + move[0, 2], axis=1)
    ys = np.sort(sample.boxes_xyxy[:, 1::2] * sy + move[1, 2], axis=1)
    whole = np.stack([xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], axis=1).astype(np.float32)
    x0, y0, x1, y1 = window
    boxes = whole.clip((x0, y0, x0, y0), (x1, y1, x1, y1)).astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (sides.min(axis=1, initial=np.inf) >= SIDE_MIN_PX) if len(sides) else np.zeros(0, bool)
    kept &= sides.prod(axis=1) >= KEPT_MIN * (whole[:, 2:] - whole[:, :2]).prod(axis=1)
    return Sample(sample.name, np.asarray(pixels, np.uint8), boxes[kept], sample.labels[kept])


def _recoloured(rng: np.random.Generator, sample: Sample) -> Sample:
    """Another lamp, another stain, another focus."""
    hsv = cv2.cvtColor(sample.pixels, cv2.COLOR_RGB2HSV)
    ramp = np.arange(256, dtype=np.float32)
    hue = ((ramp + rng.uniform(-7, 7)) % 180).astype(np.uint8)
    saturation = (ramp * rng.uniform(0.6, 1.5)).clip(0, 255).astype(np.uint8)
    value = ((ramp - 128) * rng.uniform(0.75, 1.2) + 128 + rng.uniform(-25, 25)).clip(0, 255).astype(np.uint8)
    hsv = cv2.LUT(hsv, np.stack([hue, saturation, value], axis=1)[None])
    pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    gains = rng.uniform(0.94, 1.06, 3).astype(np.float32)
    pixels = cv2.LUT(pixels, (ramp[:, None] * gains).clip(0, 255).astype(np.uint8)[None])
    chance = rng.random()
    if chance < 0.15:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.5))
    elif chance < 0.3:
        noise = rng.normal(0, rng.uniform(1, 6), pixels.shape)
        pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
    return Sample(sample.name, np.asarray(pixels, np.uint8), sample.boxes_xyxy, sample.labels)
