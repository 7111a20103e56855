"""Train, export and measure the blood cell detector.

$ python -m scripts.blood_cells train    ../shared/testdata/training/bccd --checkpoint /tmp/blood-cells.pt
$ python -m scripts.blood_cells bundle   ../shared/testdata/training/bccd --checkpoint /tmp/blood-cells.pt
$ python -m scripts.blood_cells evaluate ../shared/testdata/training/bccd
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import torch

from .data import Mix, Sample, draw_smears, load_bccd
from .evaluate import average_precision, predict_with_torch
from .model import Detector
from .train import Schedule, fit

# Slides for learning and slides for measuring never share a seed.
LEARNT_SEED_FIRST, MEASURED_SEEDS = 1000, range(10)


def main() -> None:
    args = _parser().parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    {"train": _train, "bundle": _bundle, "evaluate": _evaluate}[args.command](args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts.blood_cells", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train from scratch, write a checkpoint")
    bundle = commands.add_parser("bundle", help="export a checkpoint, quantise, measure, write the bundle")
    evaluate = commands.add_parser("evaluate", help="measure the bundle's files")
    for command in (train, bundle, evaluate):
        command.add_argument("data", type=Path, help="folder of BCCD")
    for command in (train, bundle):
        command.add_argument("--checkpoint", type=Path, required=True)
    for command in (bundle, evaluate):
        command.add_argument("--out", type=Path, default=Path("models/blood-cells"), help="folder of the bundle")
    train.add_argument("--lists", nargs="+", default=["train", "val"], choices=["train", "val"])
    train.add_argument("--start", type=Path, help="checkpoint to go on from; default: from scratch")
    train.add_argument("--slides", type=int, default=40, help="how many smears to draw")
    train.add_argument("--steps", type=int, default=Schedule().steps)
    train.add_argument("--rate", type=float, default=Schedule().rate)
    train.add_argument("--width", type=int, default=Schedule().width)
    train.add_argument("--batch", type=int, default=Mix().size)
    train.add_argument("--seed", type=int, default=Schedule().seed)
    bundle.add_argument("--score-min", type=float, help="default: the best on val, for a model that has not seen val")
    return parser


def _train(args: argparse.Namespace) -> None:
    began = time.monotonic()
    schedule = Schedule(steps=args.steps, rate=args.rate, width=args.width, seed=args.seed)
    mix = Mix(size=args.batch)
    print(f"lists {args.lists}\n{schedule}\n{mix}\ntorch {torch.__version__}, {args.threads} threads", flush=True)
    photos = [sample for listed in args.lists for sample in load_bccd(args.data, listed)]
    drawn = draw_smears(range(LEARNT_SEED_FIRST, LEARNT_SEED_FIRST + args.slides), views=5)
    print(f"{len(photos)} photos, {len(drawn)} drawn, ready after {time.monotonic() - began:.0f} s", flush=True)
    unseen = [] if "val" in args.lists else load_bccd(args.data, "val")
    start = _load(args.start) if args.start else None
    model = fit(photos, drawn, schedule, mix, start, lambda model: _glance(model, unseen))
    torch.save({"width": args.width, "lists": args.lists, "model": model.state_dict()}, args.checkpoint)
    print(f"{args.checkpoint} written after {time.monotonic() - began:.0f} s")


def _load(checkpoint: Path) -> Detector:
    saved = torch.load(checkpoint, weights_only=True)
    model = Detector(width=saved["width"])
    model.load_state_dict(saved["model"])
    return model


def _glance(model: Detector, unseen: list[Sample]) -> str:
    if not unseen:
        return "no list left to look at"
    precision = average_precision(predict_with_torch(model), unseen)
    each = "  ".join(f"{label} {value:.3f}" for label, value in precision.ap50.items())
    return f"val: mAP50 {precision.map50:.4f}  {each}  mAP50-95 {precision.map50_95:.3f}"


def _bundle(args: argparse.Namespace) -> None:
    from .bundle import write_bundle

    lists = torch.load(args.checkpoint, weights_only=True)["lists"]
    write_bundle(_load(args.checkpoint).eval(), args.data, args.out, MEASURED_SEEDS, args.score_min, lists)


def _evaluate(args: argparse.Namespace) -> None:
    from .bundle import measure_bundle

    measure_bundle(args.data, args.out, MEASURED_SEEDS)


if __name__ == "__main__":
    main()
