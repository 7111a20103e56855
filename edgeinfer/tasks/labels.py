"""Names for classes, checked against a model that has a fixed number of them."""

from __future__ import annotations

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ModelError


def check_label_count(bundle: Bundle, classes: int) -> None:
    """Raises ModelError where names and classes differ in number: a shifted name is a wrong one."""
    if bundle.labels and len(bundle.labels) != classes:
        raise ModelError(
            f"{len(bundle.labels)} labels for the {classes} classes of {bundle.name}",
            hint="give --labels a file with one line for each class",
        )
