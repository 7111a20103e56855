"""A model and all that is known about it: read from the file, from `model.toml`, from flags."""

from edgeinfer.bundle.facts import Bundle, Decode, ImageInput, ModelFile, Overrides, WindowInput
from edgeinfer.bundle.load import find_bundle, load_bundle

__all__ = ["Bundle", "Decode", "ImageInput", "ModelFile", "Overrides", "WindowInput", "find_bundle", "load_bundle"]
