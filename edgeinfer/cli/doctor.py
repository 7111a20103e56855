"""`edgeinfer doctor`: what is wrong here, and the command that mends it."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.board import Roots, recognise_board
from edgeinfer.cli.arguments import add_recorded_arguments, recorded_roots
from edgeinfer.cli.terminal import configure_logging, show
from edgeinfer.clock import Clock, ClockWatch
from edgeinfer.config import Config, read_config, with_broker_of_outputs
from edgeinfer.doctor import Finding, Patient, examine, user_of_unit
from edgeinfer.errors import ConfigError
from edgeinfer.paths import SYSTEM_FOLDER, state_folder

_SCHEMA = "edgeinfer.doctor/1"
_WIDTH = 100
_SEVERITIES = ("error", "warning", "note")
_EXIT_ERRORS = 1
_STATE_OF_SERVICE = Path("/var/lib/edgeinfer")

Findings = Sequence[tuple[str, tuple[Finding, ...]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="M", nargs="?", help="a model to try on the devices that are here")
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"the pipelines that are meant to run here ({_usual_config()}, where it is there)",
    )
    parser.add_argument(
        "--user",
        metavar="NAME",
        help="examine the permissions of this user, too (of the installed service's; without its configuration, none)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_recorded_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 unless an error was found, for warnings and notes too."""
    configure_logging(quiet=True, debug=arguments.debug)
    roots = recorded_roots(arguments)
    config, wrong = _configured(arguments.config, roots)
    found = [*wrong, *examine(_patient(arguments, config, roots))]
    if arguments.json:
        show(msgspec.json.format(msgspec.json.encode(_facts(found)), indent=2).decode())
    else:
        show("\n".join(_lines(found)))
    return _EXIT_ERRORS if _count(found, "error") else 0


def _usual_config() -> Path:
    return SYSTEM_FOLDER / "edgeinfer.toml"


def _configured(path: Path | None, roots: Roots) -> tuple[Config | None, Findings]:
    """The configuration, and what is wrong with it; none of another board's."""
    if path is None and not (roots.is_here and _usual_config().exists()):
        return None, ()
    try:
        return with_broker_of_outputs(read_config(path or _usual_config())), [("config", ())]
    except ConfigError as wrong:
        return None, [("config", (Finding("error", wrong.message, wrong.hint),))]


def _patient(arguments: argparse.Namespace, config: Config | None, roots: Roots) -> Patient:
    """Without a configuration that is named the machine's own is looked at, and with it the user of its service."""
    clock = Clock()
    path = arguments.config or _usual_config()
    user = arguments.user or (user_of_unit(roots) if arguments.config is None and roots.is_here else None)
    return Patient(
        board=recognise_board(roots),
        roots=roots,
        config=config,
        model=arguments.model,
        state=state_folder(),
        user=user,
        config_file=path if path.exists() else None,
        state_of_user=_STATE_OF_SERVICE,
        clock=clock,
        clock_state=ClockWatch(clock).state(),
    )


def _facts(found: Findings) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "checks": [name for name, _ in found],
        "findings": [
            {"check": name, "severity": each.severity, "what": each.what, "remedy": each.remedy}
            for severity in _SEVERITIES
            for name, findings in found
            for each in findings
            if each.severity == severity
        ],
    }


def _lines(found: Findings) -> Iterator[str]:
    """The worst first."""
    for severity in _SEVERITIES:
        for name, findings in found:
            for each in findings:
                if each.severity == severity:
                    yield from _wrapped(f"{severity:<8} {name}: ", each.what)
                    if each.remedy is not None:
                        # Not wrapped, so that it can be copied.
                        yield f"{'':<8} to do: {each.remedy}"
    well = [name for name, findings in found if not findings]
    if well:
        yield from _wrapped(f"{'well':<8} ", ", ".join(well))
    counts = [f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in _counts(found) if count]
    yield ", ".join(counts) or "nothing is wrong here"


def _counts(found: Findings) -> list[tuple[str, int]]:
    return [(severity, _count(found, severity)) for severity in _SEVERITIES]


def _count(found: Findings, severity: str) -> int:
    return sum(each.severity == severity for _, findings in found for each in findings)


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=" " * 9, break_on_hyphens=False)
