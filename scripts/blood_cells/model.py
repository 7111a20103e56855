"""The network: a small anchor-free detector of convolutions that stay int8 from end to end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HEIGHT, WIDTH = 240, 320
STRIDES = (8, 16)
# The farthest a box edge may lie from the cell of the grid that predicts it, in input pixels.
REACH = (96.0, 192.0)
LABELS = ("RBC", "WBC", "Platelets")


def conv(in_channels: int, out_channels: int, size: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU6; the last bounds what int8 must cover."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03),
        nn.ReLU6(inplace=True),
    )


class Residual(nn.Module):
    """Squeeze, look around, add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels // 2), conv(channels // 2, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Surroundings(nn.Module):
    """Max-pools of growing reach, so that a grid cell sees a whole white blood cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = conv(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.mix = conv(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.squeeze(x)]
        for _ in range(3):
            levels.append(self.pool(levels[-1]))
        return self.mix(torch.cat(levels, 1))


class Head(nn.Module):
    """Box edges and class scores of one level, as logits: [B, 4, H, W] and [B, classes, H, W]."""

    def __init__(self, channels: int, classes: int, prior: float = 0.02) -> None:
        super().__init__()
        self.box = nn.Sequential(conv(channels, channels, 3), nn.Conv2d(channels, 4, 1))
        self.score = nn.Sequential(conv(channels, channels, 3), nn.Conv2d(channels, classes, 1))
        nn.init.constant_(self.box[-1].bias, -1.0)
        nn.init.constant_(self.score[-1].bias, float(torch.logit(torch.tensor(prior))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.box(x), self.score(x)


class Detector(nn.Module):
    """RGB 0..1 -> [B, 4 + classes, cells]: cx, cy, w, h in 0..1 of the input, then the scores."""

    def __init__(self, classes: int = len(LABELS), width: int = 16) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(conv(3, w, 3, 2), conv(w, 2 * w, 3, 2), Residual(2 * w))
        self.fine = nn.Sequential(conv(2 * w, 4 * w, 3, 2), Residual(4 * w), Residual(4 * w))
        self.coarse = nn.Sequential(conv(4 * w, 8 * w, 3, 2), Residual(8 * w), Residual(8 * w), Surroundings(8 * w))
        self.lateral = conv(8 * w, 4 * w)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = nn.Sequential(conv(8 * w, 4 * w), Residual(4 * w))
        self.down = conv(4 * w, 4 * w, 3, 2)
        self.join = nn.Sequential(conv(8 * w, 4 * w), Residual(4 * w))
        self.heads = nn.ModuleList(Head(4 * w, classes) for _ in STRIDES)
        centres, reach = grid()
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("edges_to_boxes", edges_to_boxes(), persistent=False)
        self.reach = reach

    def logits(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Edges and scores of each level, before any squashing."""
        fine = self.fine(self.stem(x))
        lateral = self.lateral(self.coarse(fine))
        fine = self.merge(torch.cat((self.up(lateral), fine), 1))
        coarse = self.join(torch.cat((self.down(fine), lateral), 1))
        return [head(level) for head, level in zip(self.heads, (fine, coarse), strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        levels = self.logits(x)
        # A fixed matrix turns left, top, right, bottom into offset and size: one 1x1 convolution.
        boxes = [
            as_rows(nn.functional.conv2d(edges.sigmoid(), matrix))
            for (edges, _), matrix in zip(levels, self.edges_to_boxes.split(4), strict=True)
        ]
        scores = [as_rows(score) for _, score in levels]
        rows = torch.cat((torch.cat(boxes, 1) + self.centres, torch.cat(scores, 1).sigmoid()), 2)
        return rows.transpose(1, 2)


def as_rows(level: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H * W, C]; free where the tensor lies channel-last, as in TFLite."""
    return level.permute(0, 2, 3, 1).flatten(1, 2)


def grid() -> tuple[Tensor, Tensor]:
    """Centres of all grid cells as rows cx, cy, 0, 0 in 0..1 [1, cells, 4], and each cell's reach in pixels."""
    centres, reach = [], []
    for stride, far in zip(STRIDES, REACH, strict=True):
        rows, columns = HEIGHT // stride, WIDTH // stride
        ys, xs = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        middle = torch.stack(((xs.flatten() + 0.5) / columns, (ys.flatten() + 0.5) / rows), 1)
        centres.append(torch.cat((middle, torch.zeros_like(middle)), 1))
        reach.append(torch.full((rows * columns,), far))
    return torch.cat(centres)[None], torch.cat(reach)


def edges_to_boxes() -> Tensor:
    """Per level four rows: the matrix (as a 1x1 convolution) from squashed edges to cx - grid, cy - grid, w, h."""
    sums = torch.tensor([[-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5], [1, 0, 1, 0], [0, 1, 0, 1]])
    size = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])[:, None]
    return torch.cat([(sums * reach / size)[..., None, None] for reach in REACH])
