"""Learning: samples in, trained detector out."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .data import Mix, Sample, batches
from .loss import detection_loss
from .model import Detector


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast."""

    steps: int = 3000
    rate: float = 2e-3
    decay: float = 0.03
    warm_up: int = 200
    average: float = 0.998
    width: int = 16
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """A short ramp, then half a cosine down to a hundredth."""
        warm_up = min(self.warm_up, self.steps // 5)
        if step < warm_up:
            return self.rate * (step + 1) / warm_up
        done = (step - warm_up) / max(1, self.steps - warm_up)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class Average:
    """A slowly following copy of a model: what is kept in the end."""

    def __init__(self, model: Detector, pace: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self._pace = pace
        self._steps = 0

    @torch.no_grad()
    def follow(self, model: Detector) -> None:
        self._steps += 1
        keep = self._pace * (1 - math.exp(-self._steps / 300))
        for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.dtype.is_floating_point:
                mine.mul_(keep).add_(theirs, alpha=1 - keep)
            else:
                mine.copy_(theirs)


def fit(
    photos: list[Sample],
    drawn: list[Sample],
    schedule: Schedule,
    mix: Mix,
    start: Detector | None = None,
    check: Callable[[Detector], str] | None = None,
    check_every: int = 500,
) -> Detector:
    """Train from scratch or go on from `start`; the same arguments give the same detector on the same machine."""
    random.seed(schedule.seed)
    np.random.seed(schedule.seed)
    torch.manual_seed(schedule.seed)
    model = (start or Detector(width=schedule.width)).to(memory_format=torch.channels_last).train()
    average = Average(model, schedule.average)
    optimiser = _optimiser(model, schedule)
    began = time.monotonic()
    for step, batch in enumerate(batches(photos, drawn, schedule.steps, mix, schedule.seed)):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate_at(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            levels = model.logits(batch.images)
        loss, score_loss, box_loss = detection_loss(
            levels, model.centres, model.reach, batch.boxes_xyxy, batch.labels, batch.real
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        average.follow(model)
        if (step + 1) % 100 == 0:
            took = time.monotonic() - began
            print(f"step {step + 1:5d}  score {score_loss:.3f}  box {box_loss:.3f}  {took:.0f} s", flush=True)
        if check is not None and (step + 1) % check_every == 0:
            print(f"step {step + 1:5d}  {check(average.model)}", flush=True)
    return average.model


def _optimiser(model: Detector, schedule: Schedule) -> torch.optim.Optimizer:
    """Weight decay for the convolutions' weights only."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": schedule.decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.rate)
