"""Without a network, and by the kernel's word: nothing is asked of an address that was not configured."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from scripts import local_broker

EDGEINFER = (sys.executable, "-m", "edgeinfer")
CAMERA = "synthetic://test-card?fps=20&live=1&width=64&height=48&frames=30"
# A namespace of one's own has nobody to talk to, and even its loopback is down.
ALONE = ("unshare", "--user", "--map-root-user", "--net", "--")
TRACED = ("strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "--trace=connect,sendto,sendmsg,sendmmsg")
WITH_BROKER = """
ip link set lo up
mosquitto -c mosquitto.conf 2>broker.log &
until grep -q running broker.log; do kill -0 $! || exit 69; sleep 0.05; done
"$@"
code=$?
kill $!
exit $code
"""


@pytest.fixture(scope="module", autouse=True)
def namespace() -> None:
    for tool, package in (("strace", "strace"), ("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine (Debian package {package})")
    tried = subprocess.run([*ALONE, *TRACED, "true"], capture_output=True, text=True, timeout=30)
    if tried.returncode:
        pytest.skip(f"no network namespace, or no strace in it: {tried.stderr.strip()[-200:]}")


@pytest.fixture
def addresses_asked(environment, tmp_path):
    """Run a command in a namespace without a network; all that it asked any address for, and what it printed."""

    def run(*command: str, before: tuple[str, ...] = ()) -> tuple[set[tuple[str, int]], str]:
        trace = tmp_path / "trace"
        done = subprocess.run(
            [*ALONE, *before, *TRACED, f"--output={trace}", *command],
            capture_output=True,
            text=True,
            timeout=100,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return addresses(trace.read_text()), done.stdout

    return run


def addresses(trace: str) -> set[tuple[str, int]]:
    """All of the Internet that stand in it; what is asked of the kernel itself has no port."""
    found = set()
    for line in trace.splitlines():
        if "AF_INET" in line and (port := re.search(r"sin6?_port=htons\((\d+)\)", line)):
            host = re.search(r'inet_addr\("([^"]+)"|inet_pton\(AF_INET6, "([^"]+)"', line)
            assert host, line
            found.add((host[1] or host[2], int(port[1])))
    return found


def test_a_video_is_worked_through_without_a_word_to_anybody(addresses_asked, test_data):
    video = str(test_data / "media/video/one-by-one-person-detection.mp4")
    model = str(test_data / "models/ssd_mobilenet_v1_coco.tflite")
    asked, out = addresses_asked(*EDGEINFER, "run", "--model", model, "--source", video, "--frames", "10")
    assert asked == set()
    assert len(out.splitlines()) == 10


@pytest.mark.parametrize("page", [(), ("--web", "0")])
def test_so_is_what_a_camera_gives_with_and_without_the_page(addresses_asked, page):
    words = ("run", "--model", "blood-cells", "--source", CAMERA, "--output", "-", *page)
    asked, out = addresses_asked(*EDGEINFER, *words)
    assert asked == set()
    assert out.count('"detections"') > 0


@pytest.mark.parametrize(
    "command",
    [(sys.executable, "-c", "import edgeinfer"), (*EDGEINFER, "devices"), (*EDGEINFER, "inspect", "blood-cells")],
    ids=["import", "devices", "inspect"],
)
def test_looking_around_asks_nobody(addresses_asked, command):
    assert addresses_asked(*command)[0] == set()


def test_with_a_broker_only_the_broker_is_asked(addresses_asked, tmp_path):
    try:
        broker = local_broker.mosquitto(tmp_path)
    except local_broker.NoBroker as missing:
        pytest.skip(str(missing))
    words = ("run", "--model", "blood-cells", "--source", CAMERA, "--mqtt", f"mqtt://127.0.0.1:{broker.port}")
    asked, _ = addresses_asked(*EDGEINFER, *words, before=("sh", "-c", WITH_BROKER, "sh"))
    assert asked == {("127.0.0.1", broker.port)}
    assert "New client connected" in (tmp_path / "broker.log").read_text()
