"""How long a node takes to fetch a model of 5 MB from a publisher on the same machine.

    python -m scripts.benchmarks.updates mqtt|http|folder MB      one way, once

All of it is measured: the metadata, asked for for the first time, the manifest, and the file, hashed and synced.
Publisher, broker and node are processes of their own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from scripts.benchmarks.contest import OURS, Line, Row, cases, environment, fresh, of, take_turns
from scripts.benchmarks.meter import tell
from scripts.local_broker import MOSQUITTO, any_broker, free_port, running

TITLE = "Fetching a model of 5 MB from a publisher on this machine"

MB, S_MAX = 5, 1.0
WAYS = ("mqtt", "http", "folder")
_STARTS_WITHIN_S = 20.0


def measure(rounds: int) -> list[Row]:
    taken: list[Row] = []
    for way in WAYS:
        if way != "mqtt" or MOSQUITTO is not None:
            taken += take_turns(rounds, f"{MB} MB over {way}", {OURS: lambda way=way: fresh("updates", way, MB)})
    return taken


def judge(rows: Sequence[Row]) -> list[Line]:
    lines = []
    for case in cases(rows):
        for figure, metric in (("s", "all of it"), ("file_s", "the file alone")):
            values = of(rows, case, OURS, figure)
            lines.append(Line(case, metric, values, "s", median(values), at_most=S_MAX if figure == "s" else None))
    return lines


def run(way: str, megabytes: int) -> dict[str, float]:
    # Only here: the program that shows the table needs none of it.
    from scripts.local_fleet import fetch, make

    with tempfile.TemporaryDirectory(prefix="updates-", dir=Path.cwd()) as name, ExitStack() as stack:
        folder, node = Path(name) / "fleet", Path(name) / "node"
        folder.mkdir()
        node.mkdir()
        make(folder, megabytes * 1_000_000)
        return fetch(stack.enter_context(_served(way, Path(name), folder)), folder, node)


@contextmanager
def _served(way: str, scratch: Path, folder: Path) -> Iterator[str]:
    if way == "folder":
        yield str(folder / "repository")
        return
    with ExitStack() as stack:
        if way == "http":
            place = f"127.0.0.1:{free_port()}"
            url = f"http://{place}"
        else:
            url = place = stack.enter_context(running(any_broker(scratch))).url + "made-up"
        command = [sys.executable, "-m", "scripts.local_fleet", "serve", str(folder), place]
        publisher = subprocess.Popen(command, env=environment())
        stack.callback(publisher.wait)
        stack.callback(publisher.kill)
        _wait_for(url)
        yield url


def _wait_for(url: str) -> None:
    """Until the publisher answers."""
    from edgeinfer.config import UplinkConfig
    from edgeinfer.errors import UpdateError
    from edgeinfer.updates.exchange import split_url
    from edgeinfer.updates.mqtt import MqttTransport
    from edgeinfer.updates.transport import Transport, read_whole
    from edgeinfer.updates.web import WebTransport

    until_s = time.monotonic() + _STARTS_WITHIN_S
    while True:
        broker, repository = split_url(url)
        is_web = url.startswith("http")
        transport: Transport = WebTransport(url) if is_web else MqttTransport(UplinkConfig(url=broker), repository)
        try:
            read_whole(transport, "metadata/timestamp.json", 1 << 14)
            return
        except UpdateError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)
        finally:
            transport.close()


if __name__ == "__main__":
    tell(run(sys.argv[1], int(sys.argv[2])))
