"""Runs as root inside the machine of power_cuts.py: a service with a camera, a model and a broker that is away.

`install` once; `live` at each boot, until the power goes; `drain` in the end, with a broker. Each says BEGUN before
the service, or its package, is touched. What is said of the spool goes out of the machine line by line, as soon as the
service says it: what was said before a cut must be true after it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNIT = "edgeinfer.service"
CONFIG = Path("/etc/edgeinfer/edgeinfer.toml")
STATE = Path("/var/lib/edgeinfer")
MODEL = Path("/vm/testdata/models/ssd_mobilenet_v1_coco.tflite")
PORT = 1884
CONFIGURATION = """
node = "cut"

[uplink]
url = "mqtt://127.0.0.1:{port}"
mode = "consumer"
spool_bytes = "16MB"

[web]
listen = "127.0.0.1:8080"

[[pipeline]]
name = "door"
model = "{model}"
source = "/dev/video0"
device = "cpu"
rate = 5
"""
LOOK_S = 0.5
DRAIN_S = 300.0


def say(word: str, *values: object) -> None:
    print(word, *values, flush=True)


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (words, done.stdout[-500:], done.stderr[-500:])
    return done.stdout


def ask(path: str) -> Any:
    """What the service's page answers; None while there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:8080{path}", timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return None


def plug_in() -> None:
    run("modprobe", "vivid", "n_devs=1", "node_types=0x1", "num_inputs=1", "input_types=0x0")
    run("udevadm", "settle")


def install() -> None:
    say("BEGUN")
    (package,) = Path("/vm/deb").glob("edgeinfer_*.deb")
    run("dpkg", "--force-unsafe-io", "--install", str(package))
    run("systemctl", "disable", UNIT)  # Begun by `live`, which is to see all of it.
    model = "blood-cells"
    if MODEL.is_file():
        kept = CONFIG.with_name("ssd.tflite")
        kept.write_bytes(MODEL.read_bytes())
        model = str(kept)
    CONFIG.write_text(CONFIGURATION.format(port=PORT, model=model))
    plug_in()
    # The model's proof is in the state folder from here on, as on a board that has run before.
    run("systemctl", "start", UNIT)
    say("SAID", *spool(wait_for_results()))
    run("systemctl", "stop", UNIT)
    subprocess.run(["sync"], check=True)


def live() -> None:
    """Says BROKEN for what is unsound, RESULTS once there are some, then SAID for what is new and ALARM."""
    for reason in unsound():
        say("BROKEN", reason)
    plug_in()
    begun = time.monotonic()
    say("BEGUN")
    run("systemctl", "start", "--no-block", UNIT)
    state = wait_for_results()
    say("RESULTS", f"{time.monotonic() - begun:.1f}", state["pipelines"][0]["device"])
    told, heard = -1, 0
    while True:
        if (state := ask("/api/state")) is not None:
            found, depth = spool(state)
            if depth > told:
                say("SAID", found, depth)
                told = depth
        for line in ask(f"/api/log?after={heard}") or ():
            heard = max(heard, line["number"])
            if line["level"] in ("error", "critical"):
                say("ALARM", line["message"])
        time.sleep(LOOK_S)


def spool(state: Any) -> tuple[int, int]:
    """What this life has found in the spool, as far as can be told, and what waits in it now; nothing is delivered."""
    uplink = state["uplink"]
    return uplink["depth"] - uplink["accepted"], uplink["depth"]


def wait_for_results() -> Any:
    """The state, once something was accepted."""
    while True:
        state = ask("/api/state")
        if state is not None and state["uplink"]["accepted"] and state["pipelines"][0]["counts"].get("published"):
            return state
        time.sleep(LOOK_S)


def unsound() -> Iterator[str]:
    """What a power cut must not leave."""
    errors = [line for line in run("dmesg").splitlines() if "EXT4-fs error" in line or "I/O error" in line]
    yield from errors
    for path in sorted(STATE.rglob("*")):
        if ".corrupt-" in path.name:
            yield f"{path} was set aside"
        if path.suffix == ".json":
            try:
                json.loads(path.read_bytes())
            except ValueError as broken:
                yield f"{path}: {broken}"


def drain() -> None:
    """Deliver all that waits, so many messages or more: DRAINED epochs, lowest seq, highest, distinct, ids, gaps."""
    sys.path.insert(0, "/usr/lib/edgeinfer")
    from edgeinfer import Consumer
    from edgeinfer.result import Result

    for reason in unsound():
        say("BROKEN", reason)
    plug_in()
    say("BEGUN")
    with broker():
        run("systemctl", "start", "--no-block", UNIT)
        waited = int(sys.argv[2])
        seqs: set[int] = set()
        epochs: set[str] = set()
        ids: set[str] = set()
        gaps = 0
        consumer = Consumer(f"mqtt://127.0.0.1:{PORT}/", node="cut")
        until_s = time.monotonic() + DRAIN_S

        def take(message: Any) -> None:
            nonlocal gaps
            seqs.add(message.seq)
            epochs.add(message.epoch)
            if isinstance(message.data, Result):
                ids.add(message.data.id)
            gaps += message.channel == "gap"
            if len(seqs) >= waited or time.monotonic() > until_s:
                consumer.stop()

        consumer.run(take)
    say("DRAINED", len(epochs), min(seqs), max(seqs), len(seqs), len(ids), gaps)


@contextlib.contextmanager
def broker() -> Iterator[None]:
    conf = Path("/tmp/broker.conf")
    conf.write_text(f"listener {PORT} 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 1000000\n")
    process = subprocess.Popen(["mosquitto", "-c", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    {"install": install, "live": live, "drain": drain}[sys.argv[1]]()
