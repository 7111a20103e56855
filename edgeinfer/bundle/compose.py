"""A Bundle: what is resolved for pictures or for windows, and what is said of either in the same words."""

from __future__ import annotations

from pathlib import Path

from edgeinfer.bundle.facts import Bundle, Carried, Decode, GoldenFiles, ImageInput, ModelFile, WindowInput
from edgeinfer.bundle.manifest import Manifest
from edgeinfer.bundle.picker import Picker


def compose(
    file: ModelFile,
    manifest: Manifest | None,
    folder: Path | None,
    pick: Picker,
    *,
    task: str,
    decode: Decode,
    labels: tuple[str, ...],
    carried: Carried,
    image: ImageInput | None = None,
    window: WindowInput | None = None,
) -> Bundle:
    """Exactly one of `image` and `window` is given."""
    return Bundle(
        name=manifest.name if manifest else file.path.stem,
        version=manifest.version if manifest else file.metadata.version or "0",
        file=file,
        task=task,
        image=image,
        decode=decode,
        labels=labels,
        provenance=pick.provenance,
        folder=folder,
        licence=manifest.licence if manifest else file.metadata.licence,
        origin=manifest.origin if manifest else file.metadata.author,
        measured=manifest.measured if manifest else {},
        golden=_golden(file, manifest, folder),
        window=window,
        carried=carried,
    )


def _golden(file: ModelFile, manifest: Manifest | None, folder: Path | None) -> tuple[GoldenFiles, ...]:
    if manifest is None or folder is None:
        return ()
    return tuple(
        GoldenFiles(f"golden[{index}]", folder / sample.input, folder / sample.outputs if sample.outputs else None)
        for index, sample in enumerate(manifest.golden)
        if sample.weights in (None, file.format)
    )
