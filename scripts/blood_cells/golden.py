"""The bundle's golden sample: a drawn smear, and what the reference kernels make of it with the int8 model.

$ python -m scripts.blood_cells.golden models/blood-cells
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edgeinfer.bundle import load_bundle
from edgeinfer.bundle.facts import GoldenFiles
from edgeinfer.delegates import load_golden
from edgeinfer.delegates.proof import run_sample
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.litert import open_litert
from edgeinfer.sources.smear import BloodSmear

PICTURE, OUTPUTS = "smear.jpg", "smear.npz"
WIDTH, HEIGHT, SEED = 320, 240, 7


def write_golden(folder: Path) -> None:
    """Write the files that `[[golden]]` in model.toml names; the same each time."""
    drawn = BloodSmear(WIDTH, HEIGHT, seed=SEED).draw(0.0)
    cv2.imwrite(str(folder / PICTURE), drawn, [cv2.IMWRITE_JPEG_QUALITY, 95])
    bundle = load_bundle(folder)
    (sample,) = load_golden(replace(bundle, golden=(GoldenFiles("golden[0]", folder / PICTURE),)))
    runtime = open_litert(bundle.file, "cpu", RuntimeOptions(driver={"kernels": "plain"}))
    outputs = run_sample(runtime, sample)
    runtime.close()
    names = [spec.name for spec in bundle.file.outputs]
    np.savez_compressed(folder / OUTPUTS, **dict(zip(names, outputs, strict=True)))


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
