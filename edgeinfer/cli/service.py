"""`edgeinfer service`: run as a daemon, and put the units of systemd in their places."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.cli.terminal import show
from edgeinfer.cli.threads import watch_threads
from edgeinfer.errors import EdgeInferError
from edgeinfer.paths import SYSTEM_FOLDER

if TYPE_CHECKING:
    from edgeinfer.config import Config
    from edgeinfer.node import Node
    from edgeinfer.service.install import Step

log = logging.getLogger(__name__)

_CONFIG = SYSTEM_FOLDER / "edgeinfer.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name, help=summary, description=f"{summary}.", formatter_class=parser.formatter_class, allow_abbrev=False
        )

    for name, summary in (
        ("run", "run the pipelines of a configuration for good: what the unit of systemd starts"),
        ("check", "read a configuration as a start or a reload would, and say what is wrong with it"),
    ):
        with_config = action(name, summary)
        with_config.add_argument("--config", metavar="FILE", type=Path, default=_CONFIG, help=f"default: {_CONFIG}")
    install = action("install", "put the units of systemd, the user, the udev rules and the folders in their places")
    install.add_argument("--dry-run", action="store_true", help="print every file and command, and do nothing")
    install.add_argument("--now", action="store_true", help="enable and start it, too")
    uninstall = action("uninstall", "stop the service and take away what install put there")
    uninstall.add_argument("--dry-run", action="store_true", help="print every file and command, and do nothing")
    uninstall.add_argument("--purge", action="store_true", help="the configuration and the state, too")
    action("status", "what systemd knows of the service and its instances")


def run(arguments: argparse.Namespace) -> int:
    actions = {"run": _run, "check": _check, "install": _install, "uninstall": _uninstall, "status": _status}
    return actions[str(arguments.action)](arguments)


def _run(arguments: argparse.Namespace) -> int:
    from edgeinfer.cli.page import node_with, page_of
    from edgeinfer.config import read_config, with_governor
    from edgeinfer.service import SIGNALS, Service
    from edgeinfer.service.journal import configure_logging
    from edgeinfer.service.notify import Notifier
    from edgeinfer.service.restarts import Restarts, runtime_folder

    def reread() -> Config:
        return with_governor(read_config(arguments.config))

    # Before any thread begins: all of them leave signals to the loop that waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    faulthandler.enable()  # Where every thread is, when the watchdog ends us.
    configure_logging(debug=arguments.debug)
    notifier = Notifier()
    is_one_left = watch_threads()
    try:
        with page_of(reread()) as page:

            def open_node() -> Node:
                node = node_with(page)(reread(), reread=reread, patient=True)
                if page is not None:
                    page.start(node)
                return node

            Service(open_node, notifier, restarts=Restarts(runtime_folder())).run()
    except EdgeInferError as error:
        log.error("%s", error, exc_info=error if arguments.debug else None)
        notifier.tell(status=str(error))
        return error.exit_code
    finally:
        notifier.close()
    if is_one_left():
        os._exit(0)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from edgeinfer.config import read_config, with_broker_of_outputs

    config = with_broker_of_outputs(read_config(arguments.config))
    show(f"{arguments.config}: well formed, pipelines: {', '.join(each.name for each in config.pipeline)}")
    return 0


def _install(arguments: argparse.Namespace) -> int:
    from edgeinfer.service.install import Installation

    exit_code = _carry_out(Installation().install(now=arguments.now), dry_run=arguments.dry_run)
    if not (arguments.dry_run or arguments.now):
        show(f"next: write {_CONFIG}, then systemctl enable --now edgeinfer")
    return exit_code


def _uninstall(arguments: argparse.Namespace) -> int:
    from edgeinfer.service.install import Installation

    return _carry_out(Installation().uninstall(purge=arguments.purge), dry_run=arguments.dry_run)


def _carry_out(steps: Sequence[Step], *, dry_run: bool) -> int:
    from edgeinfer.service.install import refuse_without_rights

    if not dry_run:
        refuse_without_rights()
    for step in steps:
        if not dry_run:
            step.do()
        show(step.script() if dry_run else step.title)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from edgeinfer.service.install import status

    show(status())
    return 0
