"""What to run, in the words of the command line: one or more pipelines, from flags or from TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeinfer.errors import ConfigError
from edgeinfer.tomlfile import read_toml

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Word = Annotated[str, Meta(min_length=1, max_length=4096)]
Channels = Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)]


class PipelineConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One pipeline; every name is the flag of `edgeinfer run` with - written as _.

    score_min, iou_max: 0..1. max_age: milliseconds. frames: stop after so many. width, height: pixels. fps: of the
    camera. mean, std: real = (pixel - mean) / std.
    """

    model: Word
    source: Word
    name: Name = "main"
    device: Word = "auto"
    threads: Annotated[int, Meta(ge=1, le=256)] | None = None
    score_min: Share | None = None
    iou_max: Share | None = None
    max_results: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    labels: Word | None = None
    output: tuple[Word, ...] = ()
    frames: Annotated[int, Meta(ge=1)] | None = None
    max_age: Annotated[float, Meta(gt=0)] | None = None
    task: Word | None = None
    decoder: Word | None = None
    colour: Literal["rgb", "bgr", "gray"] | None = None
    fit: Literal["letterbox", "stretch", "crop"] | None = None
    box_units: Literal["normalised", "pixels"] | None = None
    mean: Channels | None = None
    std: Channels | None = None
    width: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    height: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    pixel_format: Annotated[str, Meta(pattern=r"^[A-Za-z0-9 ]{4}$")] | None = None


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A whole configuration file."""

    pipeline: Annotated[tuple[PipelineConfig, ...], Meta(min_length=1, max_length=64)]
    node: Name | None = None


def read_config(path: Path) -> Config:
    """The file at `path`. Raises ConfigError: one line with the path of the key and the nearest name."""
    config = read_toml(path, Config, ConfigError)
    names: set[str] = set()
    outputs: set[str] = set()
    for index, pipeline in enumerate(config.pipeline):
        if pipeline.name in names:
            raise ConfigError(f"{path}: pipeline[{index}].name: {pipeline.name!r} is taken by an earlier pipeline")
        names.add(pipeline.name)
        for output in pipeline.output:
            if output != "-" and output in outputs:
                raise ConfigError(f"{path}: pipeline[{index}].output: {output!r} is written to already")
            outputs.add(output)
    return config
