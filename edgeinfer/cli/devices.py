"""`edgeinfer devices`: what this board can use, and for each device the evidence or the reason why not."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from edgeinfer.board import Board, Roots, ThermalZone, recognise_board
from edgeinfer.cli.arguments import add_recorded_arguments, recorded_roots
from edgeinfer.cli.terminal import configure_logging
from edgeinfer.delegates.probe import DeviceRow, probe
from edgeinfer.delegates.probe.proof import run_a_model

_WIDTH = 100
_SCHEMA = "edgeinfer.devices/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--prove", action="store_true", help="run a small model on each usable device, in a child process"
    )
    add_recorded_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    configure_logging(quiet=True, debug=arguments.debug)
    roots = recorded_roots(arguments)
    board = recognise_board(roots)
    rows = probe(board, roots, prove=run_a_model if arguments.prove else None)
    if arguments.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(_facts(board, roots, rows)), indent=2) + b"\n")
    else:
        print("\n".join((*_header(board, roots), "", *_table(rows), *_traps(board))))
    return 0


def _facts(board: Board, roots: Roots, rows: Sequence[DeviceRow]) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "recorded": not roots.is_here,
        "board": {
            "model": board.model,
            "profile": board.profile.name,
            "title": board.profile.title,
            "recognised_by": board.recognised_by,
            "compatible": board.compatible,
            "architecture": board.architecture,
            "cpu": board.cpu,
            "cores": board.cores,
            "clusters": board.clusters,
            "features": board.features,
            "memory_bytes": board.memory_bytes,
            "thermal": [
                {
                    "type": zone.type,
                    "now_c": zone.now_c,
                    "throttle_c": zone.throttle_c,
                    "critical_c": zone.critical_c,
                }
                for zone in board.thermal
            ],
            "traps": board.profile.traps,
        },
        "devices": rows,
    }


def _header(board: Board, roots: Roots) -> Iterator[str]:
    why = f"by {board.recognised_by}" if board.recognised_by else "nothing else fits"
    memory = "unknown" if board.memory_bytes is None else f"{board.memory_bytes / (1 << 30):.1f} GiB"
    facts = [
        ("Board", board.model),
        ("Profile", f"{board.profile.name}: {board.profile.title} ({why})"),
        ("CPU", f"{board.cpu}, {board.architecture}, {board.cores} core{'s' if board.cores > 1 else ''}{_big(board)}"),
        ("Features", " ".join(board.features) or "none that matters here"),
        ("Memory", memory),
        ("Thermal", "; ".join(_temperature(zone) for zone in board.thermal) or "the kernel shows no sensor"),
    ]
    if not roots.is_here:
        facts.append(("Note", "board and nodes are those of the folders given, the packages those of this machine"))
    for name, text in facts:
        yield from _wrapped(f"{name:<9} ", text)


def _big(board: Board) -> str:
    big = [cpu for cluster in board.clusters if cluster.big for cpu in cluster.cpus]
    return "" if len(big) == board.cores else f" (big: {', '.join(map(str, big))})"


def _temperature(zone: ThermalZone) -> str:
    now = "" if zone.now_c is None else f" {zone.now_c:.0f} °C"
    limits = [
        f"{what} {limit:g} °C"
        for what, limit in (("throttles at", zone.throttle_c), ("off at", zone.critical_c))
        if limit is not None
    ]
    return f"{zone.type}{now}" + (f" ({', '.join(limits)})" if limits else "")


def _table(rows: Sequence[DeviceRow]) -> Iterator[str]:
    width = max(len(row.word) for row in rows)
    yield f"{'DEVICE':<{width}}  USABLE  EVIDENCE, REASON, REMEDY"
    for row in rows:
        lines = [", ".join(row.evidence)] if row.evidence else []
        lines += [f"{name}: {text}" for name, text in (("why not", row.reason), ("to do", row.remedy)) if text]
        start = f"{row.word:<{width}}  {'yes' if row.usable else 'no':<6}  "
        for line in lines:
            yield from _wrapped(start, line)
            start = " " * len(start)


def _traps(board: Board) -> Iterator[str]:
    if board.recognised_by and board.profile.traps:
        yield ""
        yield f"Known of {board.profile.title}:"
        for trap in board.profile.traps:
            yield from _wrapped("- ", trap)


def _wrapped(start: str, text: str) -> list[str]:
    """`text` after `start`, its further lines below its first. A long word is broken rather than the table."""
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)
