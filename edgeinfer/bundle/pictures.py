"""What a model takes of pictures, and gives for them: stated, or the custom of its decoder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from edgeinfer.bundle.carried import carried_of
from edgeinfer.bundle.channels import check_counts
from edgeinfer.bundle.compose import compose
from edgeinfer.bundle.facts import Bundle, Colour, Decode, Fit, ImageInput, Metadata, ModelFile, Overrides
from edgeinfer.bundle.labels import pick_labels
from edgeinfer.bundle.manifest import DecodeFacts, InputFacts, Manifest
from edgeinfer.bundle.picker import Picker, Value, given
from edgeinfer.bundle.recognise import (
    DECODERS,
    Convention,
    ImagePlace,
    Recognised,
    conventions,
    image_input,
    recognise,
)
from edgeinfer.errors import AmbiguousModel, ModelError, UsageError
from edgeinfer.words import unknown

log = logging.getLogger(__name__)


def resolve_pictures(file: ModelFile, manifest: Manifest | None, said: Overrides, folder: Path | None) -> Bundle:
    """Raises AmbiguousModel naming the flag, UsageError and ModelError for what cannot be."""
    pick = Picker(file)
    layout = said.layout or (manifest.input.layout if manifest else None)
    carried = carried_of(file, manifest)
    # First, for what takes no picture is not asked for its task.
    place = image_input(file, layout, carried)
    file = _with_size(file, place)
    recognised = recognise(file, layout, carried, task=_stated_task(manifest, said))
    task, decoder = _task_and_decoder(file, recognised, manifest, said, pick)
    convention = conventions(decoder, file, layout, carried)
    return compose(
        file,
        manifest,
        folder,
        pick,
        task=task,
        image=_image(file, place, manifest.input if manifest else InputFacts(), said, convention, pick),
        decode=_decode(decoder, manifest.decode if manifest else DecodeFacts(), said, convention, pick),
        labels=pick_labels(file, manifest, said, folder, pick, customary=convention.labels),
        carried=carried,
    )


def _with_size(file: ModelFile, place: ImagePlace) -> ModelFile:
    """The file with the sides settled that its input leaves free: runtimes are told what they will be fed with."""
    spec = file.inputs[place.index]
    if spec.is_static or len(spec.shape) != 4:
        return file
    sides = (place.height, place.width)
    shape = (spec.shape[0], *sides, spec.shape[3]) if place.layout == "nhwc" else (*spec.shape[:2], *sides)
    inputs = list(file.inputs)
    inputs[place.index] = replace(spec, shape=shape)
    return replace(file, inputs=tuple(inputs))


def _stated_task(manifest: Manifest | None, said: Overrides) -> str | None:
    return said.task or (manifest.task if manifest else None)


def _task_and_decoder(
    file: ModelFile, seen: Recognised | None, manifest: Manifest | None, said: Overrides, pick: Picker
) -> tuple[str, str]:
    stated_task = _stated_task(manifest, said)
    if seen is not None and stated_task not in (None, seen.task):
        seen = None  # Somebody knows better what this is: the shapes' verdict on the decoder goes with it.
    why = seen.why if seen else ""
    if seen is None and stated_task is None:
        raise AmbiguousModel(
            f"{file.path} has outputs that this version knows no decoder for: "
            + ", ".join(spec.describe() for spec in file.outputs),
            hint=f"if one fits, give --task {' or '.join(DECODERS)}, and --decoder",
        )
    task = pick.need(
        "task",
        "--task",
        (said.task, "flag"),
        (manifest.task if manifest else None, "model.toml"),
        (seen.task if seen else None, why),
    )
    decoder = pick.need(
        "decoder",
        "--decoder",
        (said.decoder, "flag"),
        (manifest.decoder if manifest else None, "model.toml"),
        (seen.decoder if seen else None, why),
        (task if len(DECODERS.get(task, "")) <= 1 else None, "the only one of its task"),
    )
    if decoder not in DECODERS.get(task, (decoder,)):
        error = UsageError if said.decoder else ModelError
        raise error(unknown(f"decoder of {task}", decoder, DECODERS[task]))
    if seen is not None and decoder != seen.decoder:
        log.warning("%s looks like %s (%s), not like %s", file.path, seen.decoder, seen.why, decoder)
    return task, decoder


def _image(
    file: ModelFile, place: ImagePlace, stated: InputFacts, said: Overrides, convention: Convention, pick: Picker
) -> ImageInput:
    metadata = file.metadata
    why = convention.why
    colour: Colour = pick.need(
        "colour order",
        "--colour rgb, bgr or gray",
        (said.colour, "flag"),
        (stated.colour, "model.toml"),
        ("gray" if place.channels == 1 else None, "one channel"),
        (metadata.colour, "file metadata"),
        (convention.colour, why),
    )
    if (colour == "gray") != (place.channels == 1):
        raise ModelError(f"{file.path} takes {place.channels} channels, which cannot be {colour!r}")
    check_counts(file, place.channels, {"mean": said.mean, "std": said.std}, UsageError)
    check_counts(file, place.channels, {"input.mean": stated.mean, "input.std": stated.std}, ModelError)
    scaling = _scaling(stated, said, metadata, convention, pick)
    if scaling is None:
        raise AmbiguousModel(
            f"{file.path} does not say the range of its pixels",
            hint="give --mean and --std: (0, 255) for 0..1, (127.5, 127.5) for -1..1, (0, 1) for 0..255",
        )
    mean, std, raw_bytes = scaling
    fit: Fit = pick.need(
        "fit",
        "--fit letterbox, stretch or crop",
        (said.fit, "flag"),
        (stated.fit, "model.toml"),
        (convention.fit, "custom of its decoder"),
    )
    return ImageInput(
        index=place.index,
        width=place.width,
        height=place.height,
        channels=place.channels,
        layout=place.layout,
        colour=colour,
        mean=mean,
        std=std,
        raw_bytes=raw_bytes,
        fit=fit,
        pad=stated.pad if stated.pad is not None else convention.pad,
    )


def _scaling(
    stated: InputFacts, said: Overrides, metadata: Metadata, convention: Convention, pick: Picker
) -> tuple[tuple[float, ...], tuple[float, ...], bool] | None:
    """mean, std, raw_bytes from the first place that states both mean and std.

    An 8-bit input that can take the pixels as they are does so, whatever the file's metadata say of mean and std:
    these are for the float twin, and TensorFlow's own Task Library ignores them there too.
    """
    for mean, std, where in (
        (said.mean, said.std, "flag"),
        (stated.mean, stated.std, "model.toml"),
        (None, None, "") if convention.raw_bytes else (metadata.mean, metadata.std, "file metadata"),
    ):
        if (mean is None) != (std is None):
            raise AmbiguousModel(f"only one of mean and std is given ({where})", hint="give both")
        if mean is not None and std is not None:
            pick.provenance["pixel range"] = where
            return mean, std, False
    if convention.raw_bytes:
        pick.provenance["pixel range"] = convention.why
        return (0.0,), (1.0,), True
    if convention.mean is not None and convention.std is not None:
        pick.provenance["pixel range"] = convention.why
        return convention.mean, convention.std, False
    return None


def _decode(decoder: str, stated: DecodeFacts, said: Overrides, convention: Convention, pick: Picker) -> Decode:
    def one(fact: str, spoken: Value | None, written: Value | None, usual: Value) -> Value:
        return pick.pick(fact, (spoken, "flag"), (written, "model.toml"), (usual, "default")) or usual

    why = convention.why
    return Decode(
        decoder=decoder,
        score_min=given(
            said.score_min, stated.score_min, 0.25 if convention.score_min is None else convention.score_min
        ),
        iou_max=given(said.iou_max, stated.iou_max, 0.5),
        max_results=one("most results", said.max_results, stated.max_results, 5 if decoder == "classify" else 100),
        box_units=pick.need(
            "box units",
            "--box-units normalised or pixels",
            (said.box_units, "flag"),
            (stated.box_units, "model.toml"),
            (convention.box_units, "custom of its decoder" if decoder in ("ssd", "classify") else why),
        ),
        output_is=pick.need(
            "kind of output",
            "--output-is probabilities or logits",
            (said.output_is, "flag"),
            (stated.output_is, "model.toml"),
            (convention.output_is, "the operators and the quantisation of its output"),
        ),
        masks=bool(stated.masks if said.masks is None else said.masks),
    )
