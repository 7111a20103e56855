"""Which grid cell answers for which blood cell, and how wrong its answer is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .model import HEIGHT, WIDTH, as_rows

CANDIDATES = 10
SCORE_POWER, OVERLAP_POWER = 0.5, 4.0
BOX_WEIGHT = 2.5


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes x0, y0, x1, y1 in the last dimension, broadcasting."""
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    inter = size.prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    return inter / (area_a + area_b - inter + 1e-6)


def generous_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes that are paired one to one: below 0 where they are far apart."""
    size = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    inter = size.prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter + 1e-6
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1) + 1e-6
    return inter / union - (hull - union) / hull


def assign(
    scores: Tensor, found: Tensor, centres: Tensor, truth: Tensor, labels: Tensor, real: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Task-aligned assignment.

    `scores` [B, A, C] after sigmoid, `found` [B, A, 4] and `truth` [B, T, 4] in pixels, `centres` [A, 2],
    `labels` [B, T], `real` [B, T] false where `truth` is padding. Returns, per grid cell: whether it answers for a
    blood cell [B, A], for which [B, A], and the score it should give [B, A, C].
    """
    _, cells, classes = scores.shape
    iou = overlap(truth[:, :, None], found[:, None]).clamp(0, 1)  # [B, T, A]
    mine = scores.transpose(1, 2).gather(1, labels[:, :, None].expand(-1, -1, cells))
    inside = torch.cat((centres - truth[:, :, None, :2], truth[:, :, None, 2:] - centres), -1).amin(-1) > 0.5
    fit = mine**SCORE_POWER * iou**OVERLAP_POWER * (inside & real[:, :, None])
    best = fit.topk(CANDIDATES, dim=2)
    chosen = torch.zeros_like(fit, dtype=torch.bool).scatter_(2, best.indices, best.values > 1e-9)
    # A grid cell wanted by several blood cells goes to the one that it overlaps most.
    contested = chosen.sum(1, keepdim=True) > 1
    winner = functional.one_hot((iou * chosen).argmax(1), truth.shape[1]).transpose(1, 2).bool()
    chosen = torch.where(contested, chosen & winner, chosen)
    answers = chosen.any(1)
    which = chosen.float().argmax(1)
    fit = fit * chosen
    # The best candidate of a blood cell aims at its own overlap, the others at less in proportion.
    goal = fit / (fit.amax(2, keepdim=True) + 1e-9) * (iou * chosen).amax(2, keepdim=True)
    aim = goal.amax(1)[..., None] * functional.one_hot(labels.gather(1, which), classes)
    return answers, which, aim * answers[..., None]


def detection_loss(
    levels: list[tuple[Tensor, Tensor]],
    centres: Tensor,
    reach: Tensor,
    truth: Tensor,
    labels: Tensor,
    real: Tensor,
) -> tuple[Tensor, float, float]:
    """The loss to descend, and its score and box parts for the log."""
    edges = torch.cat([as_rows(edges) for edges, _ in levels], 1).float()
    logits = torch.cat([as_rows(score) for _, score in levels], 1).float()
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float32)
    middle = centres[0, :, :2] * size
    far = edges.sigmoid() * reach[:, None]
    found = torch.cat((middle - far[..., :2], middle + far[..., 2:]), -1)
    with torch.no_grad():
        answers, which, aim = assign(logits.sigmoid(), found, middle, truth, labels, real)
    total = aim.sum().clamp(min=1.0)
    # Varifocal: what should be silent counts less once it is nearly silent.
    weight = torch.where(aim > 0, torch.ones_like(aim), 0.75 * logits.detach().sigmoid() ** 1.5)
    raw = functional.binary_cross_entropy_with_logits(logits, aim, reduction="none")
    score_loss = (raw * weight).sum() / total
    wanted = truth.gather(1, which[..., None].expand(-1, -1, 4))[answers]
    box_weight = aim.sum(-1)[answers]
    box_loss = ((1 - generous_overlap(found[answers], wanted)) * box_weight).sum() / total
    return score_loss + BOX_WEIGHT * box_loss, float(score_loss.detach()), float(box_loss.detach())
