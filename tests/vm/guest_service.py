"""Runs as root inside the machine of test_service_vm.py: the Debian package under the real systemd, one line per check.

The checks go on from each other, as an operator's week would.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

UNIT = "edgeinfer.service"
CONFIG = Path("/etc/edgeinfer/edgeinfer.toml")
STATE = Path("/var/lib/edgeinfer")
VIVID = Path("/sys/bus/platform/drivers/vivid")
LIVE = "synthetic://test-card?fps=20&width=64&height=48"
TEST_DATA = Path("/vm/testdata")
PREPARING = 3
# As in the unit: WatchdogSec=, and TimeoutAbortSec= and RestartSec= which come on top of it.
WATCHDOG_S = 30.0
ABORT_AND_RESTART_S = 4.0
TIMEOUT_STOP_S = 20.0
# systemd's own work, which is emulated, too.
EMULATED_S = 5.0
# The machine is emulated, and shares its cores: so long may all take that is no promise.
PATIENCE_S = 180.0

checks: list[Callable[[], None]] = []


class Skipped(Exception):
    """What is missing here for a check."""


def check(function: Callable[[], None]) -> Callable[[], None]:
    checks.append(function)
    return function


def run(*words: str, expect: int | None = 0) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert expect is None or done.returncode == expect, (words, done.returncode, done.stdout[-800:], done.stderr[-800:])
    return done.stdout + done.stderr


def show(name: str) -> str:
    return run("systemctl", "show", UNIT, "--value", f"--property={name}").strip()


def status() -> str:
    return show("StatusText")


def pid() -> int:
    return int(show("MainPID"))


def restarts() -> int:
    return int(show("NRestarts"))


def fps(pipeline: str = "door") -> float:
    said = re.search(rf"\b{pipeline} ([\d.]+) fps", status())
    return float(said.group(1)) if said else 0.0


def wait_for(true: Callable[[], object], seconds: float = PATIENCE_S) -> float:
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, f"waited in vain; {show('ActiveState')} {status()!r}"
        time.sleep(0.25)
    return time.monotonic() - begun


def gives_results(pipeline: str = "door") -> bool:
    return show("ActiveState") == "active" and fps(pipeline) > 0


def configure(**words: object) -> None:
    """One pipeline, door, in these words."""
    write_config({"name": "door", "model": "blood-cells", "device": "fake", **words})


def write_config(*pipelines: dict[str, object], more: str = "") -> None:
    tables = [
        "[[pipeline]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in each.items())
        for each in pipelines
    ]
    CONFIG.write_text(more + "\n".join(tables))


def restart() -> None:
    run("systemctl", "reset-failed", UNIT, expect=None)
    run("systemctl", "restart", UNIT)


def start_s() -> float:
    """Begin anew; for how long until results. Emulated, that is many times what it is on a board."""
    run("systemctl", "stop", UNIT)
    run("systemctl", "reset-failed", UNIT, expect=None)
    begun = time.monotonic()
    run("systemctl", "start", UNIT)
    wait_for(gives_results)
    return time.monotonic() - begun


def outage(what: str, broke: Callable[[], object], *, within_s: float) -> None:
    """Break it. Results have to come again within that time, a start as measured just before left out."""
    usual_s, before = start_s(), restarts()
    begun = time.monotonic()
    broke()
    restart_s = wait_for(lambda: restarts() > before)
    wait_for(gives_results)
    outage_s = time.monotonic() - begun
    print(f"NOTE {what}: restart {restart_s:.1f} s, results {outage_s:.1f} s, a start {usual_s:.1f} s", flush=True)
    assert restart_s < within_s + EMULATED_S, restart_s
    assert outage_s - usual_s < within_s + EMULATED_S, (outage_s, usual_s)


def journal(*more: str) -> list[dict[str, str]]:
    lines = run("journalctl", "-u", UNIT, "-o", "json", "--no-pager", *more).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def messages() -> str:
    return "\n".join(str(entry.get("MESSAGE")) for entry in journal())


@contextlib.contextmanager
def same_process() -> Iterator[None]:
    before = pid(), restarts()
    yield
    assert (pid(), restarts()) == before, (before, pid(), restarts())


def settle() -> None:
    run("udevadm", "settle")


@check
def the_package_installs_without_a_network_and_waits_for_a_configuration() -> None:
    (package,) = Path("/vm/deb").glob("edgeinfer_*.deb")
    run("dpkg", "--force-unsafe-io", "--install", str(package))  # The machine's disk is slow to sync.
    assert run("edgeinfer", "--version").startswith("edgeinfer ")
    assert show("ActiveState") == "inactive"
    assert show("UnitFileState") == "enabled"
    assert "there is no configuration" in run("edgeinfer", "service", "status")
    assert {"video", "render", "plugdev"} <= set(run("id", "-nG", "edgeinfer").split())


@check
def a_camera_that_is_missing_at_boot_does_not_fail_the_unit() -> None:
    configure(source="/dev/video0")
    run("systemctl", "start", UNIT)
    assert show("ActiveState") == "active"
    assert "degraded: no source yet: camera '/dev/video0': there is no /dev/video0" in status(), status()


@check
def it_begins_when_the_camera_comes_though_its_module_was_not_loaded() -> None:
    with same_process():
        run("modprobe", "vivid", "n_devs=1", "node_types=0x1", "num_inputs=1", "input_types=0x0")
        settle()
        took_s = wait_for(gives_results)
    print(f"NOTE camera plugged in to first status with results {took_s:.1f} s", flush=True)


@check
def the_sandbox_scores_well() -> None:
    line = run("systemd-analyze", "security", UNIT, "--no-pager").strip().splitlines()[-1]
    print(f"NOTE {line}", flush=True)
    score = re.search(r"([\d.]+) OK", line)
    assert score is not None
    assert float(score.group(1)) <= 1.7


@check
def it_runs_as_its_own_user_and_writes_only_its_state() -> None:
    said = Path(f"/proc/{pid()}/status").read_text()
    uid = run("id", "-u", "edgeinfer").strip()
    assert re.search(rf"^Uid:\s+{uid}\s", said, re.MULTILINE), said
    assert re.search(r"^CapEff:\s+0+$", said, re.MULTILINE), said
    assert re.search(r"^NoNewPrivs:\s+1$", said, re.MULTILINE), said


@check
def logs_are_in_the_journal_with_priorities_and_fields() -> None:
    lost = [entry for entry in journal() if "lost /dev/video0" in str(entry.get("MESSAGE"))]
    assert lost
    assert lost[0]["PRIORITY"] == "4", lost[0]
    assert lost[0]["LOGGER"] == "edgeinfer.pipeline.capture", lost[0]
    assert lost[0]["SYSLOG_IDENTIFIER"] == "edgeinfer"
    assert lost[0]["_SYSTEMD_UNIT"] == UNIT


@check
def a_camera_unbound_and_bound_again_gives_results_from_the_same_process() -> None:
    with same_process():
        (VIVID / "unbind").write_text("vivid.0")
        wait_for(lambda: "degraded: source lost" in status())
        (VIVID / "bind").write_text("vivid.0")
        settle()
        wait_for(lambda: gives_results() and "degraded" not in status())


@check
def a_silent_camera_is_opened_again_and_is_no_reason_for_a_restart() -> None:
    with same_process():
        run("v4l2-ctl", "-d", "/dev/video0", "-c", "percentage_of_dropped_buffers=100")
        wait_for(lambda: "degraded: source lost" in status())
        time.sleep(WATCHDOG_S)
        run("v4l2-ctl", "-d", "/dev/video0", "-c", "percentage_of_dropped_buffers=0")
        wait_for(lambda: gives_results() and "degraded" not in status())


@check
def a_model_computes_on_the_cpu_with_the_clock_seen() -> None:
    results = STATE / "door.jsonl"
    configure(source="/dev/video0", device="cpu", rate=2, output=[str(results)])
    restart()
    wait_for(lambda: results.exists() and len(results.read_text().splitlines()) > 3)
    first = json.loads(results.read_text().splitlines()[0])
    assert first["device"] == "litert:cpu", first
    print(f"NOTE infer {first['timing_ms']['infer']} ms, clock {first['clock']}", flush=True)


@check
def a_film_through_v4l2loopback_is_seen_for_what_it_shows_and_may_stall() -> None:
    video = TEST_DATA / "media/video/one-by-one-person-detection.mp4"
    if not video.is_file():
        raise Skipped("the test data (../shared/testdata) are not here")
    if subprocess.run(["modprobe", "v4l2loopback", "video_nr=10", "exclusive_caps=1", "max_buffers=4"]).returncode:
        raise Skipped("v4l2loopback could not be built for the machine's kernel (Debian packages gcc-12, make)")
    settle()
    model, results = CONFIG.with_name("ssd.tflite"), STATE / "loop.jsonl"
    model.write_bytes((TEST_DATA / "models/ssd_mobilenet_v1_coco.tflite").read_bytes())
    word = {"model": str(model), "source": "/dev/video10", "device": "cpu", "rate": 1, "output": [str(results)]}
    configure(**word)

    def persons() -> int:
        lines = results.read_text().splitlines() if results.exists() else []
        return sum('"person"' in line for line in lines)

    with playing(video) as player:
        restart()
        wait_for(lambda: persons() >= 3, 2 * PATIENCE_S)
        with same_process():
            player.send_signal(signal.SIGSTOP)
            wait_for(lambda: "degraded: source lost" in status())
            before = persons()
            player.send_signal(signal.SIGCONT)
            wait_for(lambda: persons() > before)
    lines = len(results.read_text().splitlines())
    print(f"NOTE persons in {persons()} of {lines} results", flush=True)


@contextlib.contextmanager
def playing(video: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Played into /dev/video10 as a camera's picture, with what the package brings along."""
    words = ["/usr/bin/python3", "/vm/tools/v4l2_feed.py", str(video), "/dev/video10", "--fps", "5"]
    player = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": "/usr/lib/edgeinfer"})
    try:
        yield player
    finally:
        player.kill()
        player.wait()


@check
def a_reload_takes_the_new_words_in_the_same_process() -> None:
    configure(source=LIVE)
    restart()
    with same_process():
        write_config(
            {"name": "door", "model": "blood-cells", "device": "fake", "source": LIVE},
            {"name": "yard", "model": "blood-cells", "device": "fake", "source": LIVE},
        )
        run("systemctl", "reload", UNIT)
        wait_for(lambda: fps("door") > 0 and fps("yard") > 0)


@check
def a_bad_configuration_fails_the_reload_and_the_old_one_runs_on() -> None:
    with same_process():
        CONFIG.write_text('[[pipeline]]\nmodle = "blood-cells"\n')
        assert "failed" in run("systemctl", "reload", UNIT, expect=1).lower()
        assert "modle" in messages()
        run("systemctl", "kill", "--kill-whom=main", "--signal=HUP", UNIT)
        wait_for(lambda: "refused" in status(), 20)
        wait_for(lambda: fps("yard") > 0)


@check
def killed_it_is_begun_anew_in_a_second() -> None:
    configure(source=LIVE)
    outage("kill -9", lambda: os.kill(pid(), signal.SIGKILL), within_s=ABORT_AND_RESTART_S)


@check
def stopped_in_its_tracks_it_is_begun_anew_by_the_watchdog() -> None:
    configure(source=LIVE)
    outage("SIGSTOP", lambda: os.kill(pid(), signal.SIGSTOP), within_s=WATCHDOG_S + ABORT_AND_RESTART_S)


@check
def a_run_of_the_model_that_hangs_ends_in_a_restart_and_says_where_it_hung() -> None:
    configure(source=LIVE)
    usual_s = start_s()
    configure(source=LIVE, device="fake:hang_at=100")
    run("systemctl", "stop", UNIT)
    run("systemctl", "start", UNIT)
    hung, before = pid(), restarts()
    wait_for(lambda: restarts() > before)
    own = [each for each in journal() if each.get("_PID") == str(hung)]
    (said,) = [each for each in own if "a frame is in work for" in str(each.get("MESSAGE"))]
    hang_s = float(re.findall(r"in work for (\d+) s", str(said["MESSAGE"]))[0])
    since_said_s = time.time() - int(said["__REALTIME_TIMESTAMP"]) / 1e6
    outage_s = hang_s + since_said_s + wait_for(gives_results)
    print(f"NOTE hang: said after {hang_s:.0f} s, results after {outage_s:.1f} s, a start {usual_s:.1f} s", flush=True)
    assert hang_s < WATCHDOG_S, hang_s
    assert outage_s - usual_s < WATCHDOG_S + EMULATED_S, (outage_s, usual_s)
    assert any("in _infer" in str(each.get("MESSAGE")) for each in own)  # Where its threads were.


@check
def a_worker_that_runs_out_of_memory_is_replaced_and_the_service_goes_on() -> None:
    configure(source=LIVE, device="cpu", isolate=True, rate=2, output=[str(STATE / "door.jsonl")])
    restart()
    wait_for(gives_results)
    workers = run("pgrep", "--parent", str(pid())).split()
    assert workers
    results = STATE / "door.jsonl"
    with same_process():
        for worker in workers:
            Path(f"/proc/{worker}/oom_score_adj").write_text("1000")
        Path("/proc/sys/kernel/sysrq").write_text("1")
        Path("/proc/sysrq-trigger").write_text("f")
        wait_for(lambda: not all(Path(f"/proc/{worker}").exists() for worker in workers))
        before = len(results.read_text().splitlines())
        took_s = wait_for(lambda: len(results.read_text().splitlines()) > before + 3)
    assert "Killed process" in run("dmesg")
    print(f"NOTE a worker killed for memory, to the fourth result after it {took_s:.1f} s", flush=True)


@check
def a_secret_comes_by_systemds_credential() -> None:
    Path("/etc/credstore").mkdir(exist_ok=True)
    Path("/etc/credstore/edgeinfer.mqtt-user").write_text("pi-7\n")
    Path("/etc/credstore/edgeinfer.mqtt-password").write_text("s3cret\n")
    Path("/tmp/passwords").touch()
    run("mosquitto_passwd", "-b", "/tmp/passwords", "pi-7", "s3cret")
    Path("/tmp/broker.conf").write_text("listener 1884 127.0.0.1\npassword_file /tmp/passwords\nuser root\n")
    broker = subprocess.Popen(
        ["mosquitto", "-c", "/tmp/broker.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        write_config(
            {"name": "door", "model": "blood-cells", "device": "fake", "source": LIVE},
            more='[uplink]\nurl = "mqtt://127.0.0.1:1884"\n',
        )
        restart()
        login = ["-h", "127.0.0.1", "-p", "1884", "-u", "pi-7", "-P", "s3cret"]
        assert len(run("mosquitto_sub", *login, "-t", "edgeinfer/v1/#", "-C", "3", "-W", "60").splitlines()) == 3
    finally:
        broker.kill()
        broker.wait()


@check
def a_crash_loop_is_slowed_down_and_a_stop_does_not_wait_for_it() -> None:
    configure(source=LIVE, device="fake:crash_at=1")
    run("systemctl", "stop", UNIT)
    run("systemctl", "start", "--no-block", UNIT)
    wait_for(lambda: restarts() >= 1)
    starts = Path("/run/edgeinfer/starts")
    assert int(starts.read_text()) >= 1, "the count outlives a restart"
    starts.write_text("7\n")  # As after some more, which take minutes here.
    wait_for(lambda: "waits" in status())
    assert show("ActiveState") == "activating"
    assert re.search(r"waits \d+ s", status()), status()
    begun = time.monotonic()
    configure(source=LIVE)
    run("systemctl", "stop", UNIT)
    assert time.monotonic() - begun < TIMEOUT_STOP_S
    assert show("Result") == "success"
    run("systemctl", "start", UNIT)
    wait_for(gives_results)
    assert not list(Path("/var/lib/systemd/coredump").glob("*")) if Path("/var/lib/systemd/coredump").exists() else True


@check
def an_instance_runs_beside_it_with_a_folder_of_its_own() -> None:
    Path("/etc/edgeinfer/gate.toml").write_text(CONFIG.read_text())
    run("systemctl", "start", "edgeinfer@gate.service")
    assert (STATE / "gate").is_dir()
    assert "edgeinfer@gate.service: active" in run("edgeinfer", "service", "status")
    run("systemctl", "stop", "edgeinfer@gate.service")


@check
def removed_and_purged_it_leaves_nothing() -> None:
    run("dpkg", "--purge", "edgeinfer")
    left = run("find", "/etc", "/usr", "/var/lib", "/run", "-name", "*edgeinfer*", "-not", "-path", "/etc/credstore/*")
    left = "\n".join(line for line in left.splitlines() if "/var/lib/dpkg" not in line and "/run/systemd" not in line)
    assert left == "", left
    run("id", "edgeinfer", expect=1)


@check
def installed_by_its_own_command_it_runs_and_leaves_nothing_either() -> None:
    (package,) = Path("/vm/deb").glob("edgeinfer_*.deb")
    run("dpkg-deb", "--extract", str(package), "/opt/unpacked")
    run("python3", "-m", "venv", "--without-pip", "/opt/edgeinfer")
    (site,) = Path("/opt/edgeinfer/lib").glob("python3*/site-packages")
    (site / "edgeinfer.pth").write_text("/opt/unpacked/usr/lib/edgeinfer\n")
    program = Path("/opt/edgeinfer/bin/edgeinfer")
    program.write_text("#!/opt/edgeinfer/bin/python3\nimport sys\nfrom edgeinfer.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    Path("/etc/edgeinfer").mkdir()
    configure(source=LIVE)
    dry = run(str(program), "service", "install", "--dry-run")
    assert "ExecStart=/opt/edgeinfer/bin/edgeinfer service run" in dry
    assert not Path("/etc/systemd/system/edgeinfer.service").exists()
    run(str(program), "service", "install", "--now")
    wait_for(gives_results)
    run(str(program), "service", "uninstall", "--purge")
    left = run("find", "/etc", "/usr", "/var/lib", "-name", "*edgeinfer*", "-not", "-path", "/etc/credstore/*")
    left = "\n".join(line for line in left.splitlines() if "/var/lib/dpkg" not in line)
    assert left == "", left
    run("id", "edgeinfer", expect=1)


def main() -> int:
    failures = 0
    # The first few bring about what all others go on from.
    chosen = [
        each for at, each in enumerate(checks) if len(sys.argv) == 1 or at < PREPARING or each.__name__ in sys.argv[1:]
    ]
    for function in chosen:
        begun = time.monotonic()
        try:
            function()
            result = "PASS"
        except Skipped as missing:
            result = f"SKIP {missing}"
        except Exception:  # noqa: BLE001 - the edge of a check: reported, and the next one runs
            failures += 1
            result = "FAIL " + " | ".join(traceback.format_exc().splitlines()[-4:])
        print(f"CHECK {function.__name__} {time.monotonic() - begun:.1f} {result}", flush=True)
        if result.startswith("FAIL"):
            print(
                "\n".join(
                    f"JOURNAL {line}"
                    for line in run("journalctl", "-u", UNIT, "-n", "40", "--no-pager", expect=None).splitlines()
                )
            )
    return failures


if __name__ == "__main__":
    sys.exit(main())
