"""The command line: a table of commands, each imported when called."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from edgeinfer import __version__
from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.words import nearest, unknown

# As in `typing`, which takes longer to load than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

COMMANDS = {
    "run": "run a model over a camera, a file or another source",
    "inspect": "show what is known about a model: tensors, operators, labels, and where each fact comes from",
    "tune": "measure every way to run a model here, check each, and keep the plan that run goes by",
    "bench": "measure single-stream latency and offline throughput, of the model alone and end to end",
    "tail": "print what a fleet sends to an MQTT broker, a line for each result, as it comes",
    "models": "the models of this node: list, add, verify, rollback, history, update",
    "service": "run for good under systemd: install, uninstall, status, run, check",
    "fleet": "publish models to nodes: keys, a signed repository, its releases, and serving it",
    "top": "show in the terminal how a node that runs with --web is doing, as its page does",
    "devices": "show what this board can use: each device with its evidence, or the reason why not and what mends it",
    "doctor": "say what is wrong here, and for each finding the command that mends it",
}

_USUAL_COLUMNS = 80

EXIT_BUG = 70
EXIT_INTERRUPTED = 130

_EPILOG = """\
exit codes: 0 done, 1 the doctor found an error, 2 usage, 3 bad model, 4 no such device,
            5 source failed, 6 configuration, 7 an update failed or was refused, 70 a bug,
            130 interrupted
'edgeinfer COMMAND --help' explains a command
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "), hint=f"{self.prog} --help")


class _Help(argparse.HelpFormatter):
    """As wide as the terminal. Left to itself, argparse loads `shutil` for that: half as long again as all the rest."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


class _HelpAsWritten(_Help, argparse.RawDescriptionHelpFormatter):
    pass


def _columns() -> int:
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(1).columns or _USUAL_COLUMNS
    except OSError:
        return _USUAL_COLUMNS


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors are one line on stderr, with `--debug` a traceback too."""
    words = list(sys.argv[1:] if argv is None else argv)
    _mend_streams()
    _interrupt_on_signals()
    _keep_numpy_to_one_thread()
    return _flushed(_exit_code_of(words, debug="--debug" in words))


def _exit_code_of(words: list[str], *, debug: bool) -> int:
    try:
        return _run(words)
    except SystemExit as helped:  # argparse, after --help and --version.
        return int(helped.code or 0)
    except EdgeInferError as error:
        _explain(error, debug=debug)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return 0
    except Exception as bug:  # noqa: BLE001 - the outermost edge
        if debug:
            _print_traceback(bug)
        _say(f"a bug in edgeinfer: {type(bug).__name__}: {bug}; run again with --debug and report what it prints")
        return EXIT_BUG


def _mend_streams() -> None:
    """Closed standard streams become /dev/null, for the next file to be opened would take their place; and what a
    terminal's encoding lacks is shown by its code, not by a traceback."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - a descriptor, for good
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 - a descriptor, for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _interrupt_on_signals() -> None:
    """SIGTERM, and SIGHUP unless nohup ignores it, are taken as Ctrl-C is: whatever is open is closed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            with suppress(ValueError):  # Only the main thread may.
                signal.signal(number, _interrupt)


def _keep_numpy_to_one_thread() -> None:
    """Before it is loaded. The features of a window of sound are small products of matrices: threads of OpenBLAS that
    wait for the next one spin away seven times what it takes, and the runtime lacks their cores."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _flushed(exit_code: int) -> int:
    """The exit code, once all that was printed is out."""
    try:
        sys.stdout.flush()
    except OSError as failed:
        # Python flushes stdout once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(failed, BrokenPipeError):
            return exit_code
        _say(f"cannot write to stdout: {failed.strerror}")
        return exit_code or UsageError.exit_code
    return exit_code


def _run(words: list[str]) -> int:
    parser = Parser(
        prog="edgeinfer",
        description="Runs machine-learning models on the device that holds the camera or the sensor.",
        epilog=_EPILOG,
        formatter_class=_HelpAsWritten,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"edgeinfer {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    if not words:
        parser.print_help()
        return 0
    if words[0] == "--debug" and len(words) > 1:
        words = [*words[1:], words[0]]
    if words[0] in COMMANDS:
        return _run_command(words[0], words[1:])
    if not words[0].startswith("-"):
        raise UsageError(unknown("command", words[0], COMMANDS))
    parser.parse_args([word for word in words if word != "--debug"])
    parser.print_help()
    return 0


def _run_command(name: str, words: list[str]) -> int:
    command = import_module(f"edgeinfer.cli.{name}")
    parser = Parser(
        prog=f"edgeinfer {name}", description=COMMANDS[name] + ".", formatter_class=_Help, allow_abbrev=False
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error, and debug logs")
    command.add_arguments(parser)
    arguments, strange = parser.parse_known_args(words)
    if strange:
        close = nearest(strange[0], parser._option_string_actions)
        advice = f"did you mean {close}?" if close else f"edgeinfer {name} --help"
        raise UsageError(f"unknown argument {strange[0]!r}", hint=advice)
    return int(command.run(arguments))


def _explain(error: EdgeInferError, *, debug: bool) -> None:
    if debug:
        _print_traceback(error)
    _say(str(error))


def _print_traceback(error: Exception) -> None:
    import traceback  # Of no use to a command that goes well.

    traceback.print_exception(error)


def _say(message: str) -> None:
    line = " ".join(message.split())
    # A file name or a label must not steer the terminal.
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)
    print(f"edgeinfer: error: {shown}", file=sys.stderr)
