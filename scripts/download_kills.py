"""scripts/download_kills: a model is fetched again and again, while -9 kills the updater, the publisher and the broker.

Each download is begun by a process of its own and, whenever that was killed or gave up, gone on with by the next one.
It counts when what lies there in the end has the right content, and no updater began again from nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from scripts.local_broker import Broker, free_port, mosquitto
from scripts.local_fleet import make

ATTEMPTS_MAX = 60
KILLED_AFTER_S = (0.35, 0.9)
DOWN_S = (0.0, 0.5)
LAST_ATTEMPT_S = 90.0


class Verdict(NamedTuple):
    """kills: of an updater, a publisher and a broker."""

    downloads: int
    complete: int
    kills: tuple[int, int, int]

    @property
    def holds(self) -> bool:
        return self.complete == self.downloads


class Rounds:
    """The processes, and what kills them."""

    def __init__(self, folder: Path, *, over: str, megabytes: float, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._fleet = folder / "fleet"
        self._fleet.mkdir()
        self.sha256 = make(self._fleet, round(megabytes * 1e6), seed=seed)
        self._broker: Broker | None = mosquitto(folder) if over == "mqtt" else None
        port = free_port()
        self._place = f"127.0.0.1:{port}" if self._broker is None else f"{self._broker.url}made-up"
        self._url = f"http://{self._place}" if self._broker is None else self._place
        self._publisher: subprocess.Popen[bytes] | None = None
        self.kills = [0, 0, 0]

    def start(self) -> None:
        if self._broker is not None:
            self._broker.start()
        self._publisher = self._program("serve", str(self._fleet), self._place)

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.kill()
            self._publisher.wait()
        if self._broker is not None:
            self._broker.kill()

    def download(self, name: str) -> bool:
        """Whether it comes whole in the end, whatever was killed meanwhile."""
        node = self._folder / name
        node.mkdir()
        longest = 0
        for attempt in range(ATTEMPTS_MAX):
            is_last = attempt == ATTEMPTS_MAX - 1
            updater = self._program("fetch", self._url, str(self._fleet), str(node))
            try:
                updater.wait(LAST_ATTEMPT_S if is_last else self._random.uniform(*KILLED_AFTER_S))
            except subprocess.TimeoutExpired:
                self._kill(updater)
            if (node / "weights").exists():
                return hashlib.sha256((node / "weights").read_bytes()).hexdigest() == self.sha256
            length = (node / "weights.part").stat().st_size if (node / "weights.part").exists() else 0
            if length < longest:
                print(f"{name}: began again at {length} after {longest} bytes", file=sys.stderr)
                return False
            longest = length
        return False

    def _kill(self, updater: subprocess.Popen[bytes]) -> None:
        """The updater most often; sometimes the publisher or the broker, under its hands."""
        victim = self._random.choices((0, 1, 2), (4, 1, 1 if self._broker is not None else 0))[0]
        self.kills[victim] += 1
        if victim == 0:
            updater.kill()
        elif victim == 1:
            assert self._publisher is not None
            self._publisher.kill()
            self._publisher.wait()
            time.sleep(self._random.uniform(*DOWN_S))
            self._publisher = self._program("serve", str(self._fleet), self._place)
        elif self._broker is not None:
            self._broker.kill()
            time.sleep(self._random.uniform(*DOWN_S))
            self._broker.start()
        try:
            updater.wait(self._random.uniform(*KILLED_AFTER_S))
        except subprocess.TimeoutExpired:
            updater.kill()
        updater.wait()

    def _program(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "scripts.local_fleet", *words]
        with (self._folder / "programs.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))


def run(*, downloads: int, over: str, megabytes: float, seed: int, folder: Path) -> Verdict:
    with ExitStack() as stack:
        rounds = Rounds(folder, over=over, megabytes=megabytes, seed=seed)
        stack.callback(rounds.close)
        rounds.start()
        complete = 0
        for number in range(downloads):
            complete += rounds.download(f"node-{number}")
            print(f"{complete} of {number + 1}", file=sys.stderr)
        return Verdict(downloads, complete, (rounds.kills[0], rounds.kills[1], rounds.kills[2]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/download_kills", description=__doc__)
    parser.add_argument("--downloads", type=int, default=20)
    parser.add_argument("--over", choices=("mqtt", "http"), default="mqtt")
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="download-kills-") as folder:
        verdict = run(**vars(words), folder=Path(folder))
    updaters, publishers, brokers = verdict.kills
    print(
        f"{verdict.complete} of {verdict.downloads} downloads came whole; killed: {updaters} updaters,"
        f" {publishers} publishers, {brokers} brokers"
    )
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
