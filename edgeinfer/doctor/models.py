"""Models: whether they are whole, and, for one that is named, which device really runs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from edgeinfer.bundle import Bundle, load_bundle
from edgeinfer.config import slot_of
from edgeinfer.delegates import load_golden
from edgeinfer.delegates.choose import open_rung
from edgeinfer.delegates.ladder import Rung, rungs_for
from edgeinfer.delegates.probe import DeviceRow
from edgeinfer.delegates.trial import Refused
from edgeinfer.doctor.finding import Finding, Patient
from edgeinfer.errors import EdgeInferError, ModelError
from edgeinfer.model import format_for
from edgeinfer.pipeline.assemble import overrides_of
from edgeinfer.updates.store import open_store


def models(patient: Patient) -> Iterator[Finding]:
    """Of the configuration every model is read; none is opened, for another program may be at work on its device."""
    for each in patient.pipelines:
        try:
            load_bundle(_word_of(each.model), overrides_of(each), prefer=format_for(each.device))
        except EdgeInferError as refused:
            yield Finding("error", f"pipeline {each.name}: {refused.message}", refused.hint)
    if patient.model is not None:
        try:
            bundle = load_bundle(_word_of(patient.model))
            rungs = rungs_for("auto", bundle.file, patient.board)
        except EdgeInferError as refused:
            yield Finding("error", refused.message, refused.hint)
            return
        yield from _tried(bundle, rungs, patient.devices)


def _word_of(model: str) -> str:
    """What a slot holds; any other word as it is. Raises ModelError where it holds nothing, or it is damaged."""
    slot = slot_of(model)
    if slot is None:
        return model
    with closing(open_store()) as store:
        active = store.active(slot)
        if active is None:
            raise ModelError(f"slot {slot} holds no model", hint=f"edgeinfer models add BUNDLE --slot {slot}")
        return str(store.bundle_of(active))


def _tried(bundle: Bundle, rungs: Sequence[Rung], rows: Sequence[DeviceRow]) -> Iterator[Finding]:
    """As `auto` does it: the first that passes its proof is taken. What is not here is nobody's fault."""
    refusals = []
    for rung in rungs:
        try:
            open_rung(bundle.file, rung, golden=load_golden(bundle)).close()
            break
        except Refused as refused:
            refusals.append((rung, str(refused)))
    else:
        reasons = "; ".join(dict.fromkeys(reason for _, reason in refusals))
        yield Finding("error", f"nothing here runs {bundle.file.path}: {reasons}")
        return
    for rung, reason in refusals:
        if any(row.usable and row.word.startswith(rung.word) for row in rows):
            yield Finding("warning", f"{rung.word} is here and does not run {bundle.name}: {reason}")
