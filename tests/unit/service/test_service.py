"""A service against a socket in systemd's place: real nodes of drawn sources and the fake device."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest

from edgeinfer import service
from edgeinfer.config import Config, PipelineConfig
from edgeinfer.errors import ConfigError, ModelError
from edgeinfer.node import Node
from edgeinfer.pipeline import Report, Work
from edgeinfer.service import Heart, Service
from edgeinfer.service.restarts import Restarts
from edgeinfer.service.status import Status
from edgeinfer.service.watch import Watch

LIVE = "synthetic://test-card?fps=50&width=64&height=48"


def pipeline(name: str, **more) -> PipelineConfig:
    return PipelineConfig(**{"model": "blood-cells", "name": name, "source": LIVE, "device": "fake", **more})


class Signals:
    """Gives the service a signal when the test says so."""

    def __init__(self) -> None:
        self._came: int | None = None
        self._stirred = threading.Condition()
        self.waits_s: list[float] = []

    def send(self, number: int) -> None:
        with self._stirred:
            self._stirred.wait_for(lambda: self._came is None, 60)
            self._came = number
            self._stirred.notify_all()

    def __call__(self, seconds: float) -> int | None:
        self.waits_s.append(seconds)
        with self._stirred:
            self._stirred.wait_for(lambda: self._came is not None, min(seconds, 0.02))
            came, self._came = self._came, None
            self._stirred.notify_all()
            return came


class Running:
    """A service in a thread of its own."""

    def __init__(self, systemd, open_node: Callable[[], Node], **more) -> None:
        self.signals = Signals()
        self.service = Service(open_node, systemd.notifier, wait=self.signals, **more)
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.service.run()
        except Exception as error:  # noqa: BLE001 - the edge of a thread; the test looks at it
            self.error = error

    def end(self) -> None:
        if self.thread.is_alive():
            self.signals.send(signal.SIGTERM)
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def begin(systemd):
    running: list[Running] = []

    def begin(*pipelines: PipelineConfig, reread=None, **more) -> Running:
        config = Config(pipeline=pipelines)
        running.append(Running(systemd, lambda: Node(config, reread=reread, patient=True), **more))
        return running[-1]

    yield begin
    for each in running:
        each.end()


def test_it_is_ready_with_its_first_result_and_says_how_it_is(begin, systemd):
    begin(pipeline("door"))
    assert systemd.hear() == ["STATUS=opening models and sources"]
    _, status = systemd.hear_until("READY=1")
    assert status.startswith("STATUS=door ")
    assert status.endswith(" fps on fake")
    systemd.hear_until("WATCHDOG=1")


def test_a_camera_that_is_missing_at_boot_is_said_and_everything_else_runs(begin, systemd):
    begin(pipeline("door", source="/dev/video77"), pipeline("yard"))
    _, status = systemd.hear_until("READY=1")
    assert "door 0.0 fps on fake, degraded: no source yet: camera '/dev/video77': there is no /dev/video77" in status
    assert "yard " in status


def test_a_camera_that_is_missing_at_boot_does_not_fail_a_service_of_that_alone(begin, systemd):
    begin(pipeline("door", source="rtsp://127.0.0.1:1/none"))
    assert "degraded: no source yet" in systemd.hear_until("READY=1")[1]
    systemd.hear_until("WATCHDOG=1")


def test_a_pipeline_that_cannot_be_opened_is_tried_again_and_the_others_run(begin, systemd, tmp_path):
    late = tmp_path / "late.ppm"
    begin(pipeline("door"), pipeline("yard", source=str(late)))
    assert "; yard does not run: no such file" in systemd.hear_until("READY=1")[1]
    late.write_bytes(b"P6 2 2 255\n" + bytes(12))
    while "yard stopped" not in systemd.hear_until("STATUS=")[-1]:
        pass


def test_with_nothing_to_run_the_reason_is_the_error(systemd):
    running = Running(
        systemd, lambda: Node(Config(pipeline=(pipeline("door", model="no-such-model.tflite"),)), patient=True)
    )
    running.thread.join(60)
    assert isinstance(running.error, ModelError)


def test_it_ends_when_all_pipelines_have_come_to_their_ends(begin, systemd):
    running = begin(pipeline("door", source="synthetic://test-card?frames=3&width=64&height=48"))
    systemd.hear_until("READY=1")
    systemd.hear_until("STOPPING=1")
    running.thread.join(60)
    assert running.error is None


def test_memory_goes_back_every_ten_seconds_and_code_once_ready_and_every_ten_minutes(systemd, time, monkeypatch):
    given_back_s, unmapped_s = [], []
    monkeypatch.setattr(service, "give_back", lambda: given_back_s.append(time.now_s))
    monkeypatch.setattr(service, "unmap_code", lambda: unmapped_s.append(time.now_s))
    is_settled = False

    def wait(seconds: float) -> int | None:
        nonlocal is_settled
        while not systemd.hear_nothing():
            pass  # Its socket holds a few lines only.
        time.now_s += seconds
        is_settled = time.now_s >= 1005
        return signal.SIGTERM if time.now_s >= 1625 else None

    monkeypatch.setattr(service, "_is_settled", lambda pipeline: is_settled)
    config = Config(pipeline=(pipeline("door"),))
    Service(lambda: Node(config, patient=True), systemd.notifier, wait=wait, clock=time.clock).run()
    assert given_back_s[:3] == [1001, 1011, 1021]
    assert unmapped_s == [1005, 1605]


def test_a_reload_is_said_with_its_time_and_ends_in_ready(begin, systemd):
    configs = [Config(pipeline=(pipeline("door"), pipeline("yard")))]
    running = begin(pipeline("door"), reread=lambda: configs[0])
    systemd.hear_until("READY=1")
    running.signals.send(signal.SIGHUP)
    reloading = systemd.hear_until("RELOADING=1")
    assert reloading[1].startswith("MONOTONIC_USEC=")
    assert "yard " in systemd.hear_until("READY=1")[1]


def test_a_bad_configuration_is_refused_and_the_old_one_runs_on(begin, systemd):
    def reread() -> Config:
        raise ConfigError("edgeinfer.toml: pipeline[0].modle: unknown")

    running = begin(pipeline("door"), reread=reread)
    systemd.hear_until("READY=1")
    running.signals.send(signal.SIGHUP)
    systemd.hear_until("RELOADING=1")
    assert "refused: edgeinfer.toml: pipeline[0].modle" in systemd.hear_until("READY=1")[1]
    systemd.hear_until("WATCHDOG=1")
    running.end()
    assert running.error is None


def test_after_too_many_ends_it_waits_says_so_and_asks_for_the_time(systemd, tmp_path):
    for _ in range(8):
        Restarts(tmp_path).begin()
    opened = []
    running = Running(systemd, opened.append, restarts=Restarts(tmp_path))
    extend, status = systemd.hear()
    assert extend == "EXTEND_TIMEOUT_USEC=140000000"
    assert "waits 80 s" in status
    running.end()  # A stop does not have to wait.
    assert opened == []


def test_a_wanted_end_is_no_crash(begin, systemd, tmp_path):
    restarts = Restarts(tmp_path)
    running = begin(pipeline("door"), restarts=restarts)
    systemd.hear_until("READY=1")
    running.end()
    assert not (tmp_path / "starts").exists()


class Standing:
    """A pipeline that is seen at one kind of work, or at none."""

    name = "door"

    def __init__(self, work: Work | None, *, usual_ms: float = 10.0, results: int = 100, state: str = "ok") -> None:
        self._work, self._usual_ms, self._results = work, usual_ms, results
        self.state = state

    def work(self) -> Work | None:
        return self._work

    def report(self) -> Report:
        counts = {"captured": 1 + self._results}
        return Report(self._results, self._results, 1.0, counts, {"infer": self._usual_ms}, {}, None)


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (Standing(None), None),
        (Standing(Work("a frame is in work", 990 * 10**9)), None),
        (Standing(Work("a frame is in work", 970 * 10**9)), "pipeline door: a frame is in work for 30 s"),
        (Standing(Work("a frame is in work", 970 * 10**9), usual_ms=7000), None),
        (Standing(Work("a frame is in work", 970 * 10**9), results=0), None),
        (Standing(Work("a frame is in work", 920 * 10**9), results=0), "pipeline door: a frame is in work for 80 s"),
        (Standing(Work("a frame is in work", 970 * 10**9), state="degraded: cpu died"), None),
        (
            Standing(Work("its source is being opened", 900 * 10**9), state="degraded: source lost"),
            "pipeline door: its source is being opened for 100 s",
        ),
    ],
)
def test_who_waits_is_well_and_who_works_on_one_thing_for_too_long_hangs(time, standing, expected):
    assert Watch(18, time.clock).hangs([standing]) == expected


def test_a_hung_run_of_a_model_is_no_sign_of_life(systemd, time):
    with_hang = pipeline("door", device="fake:hang_at=3")
    node = Node(Config(pipeline=(with_hang,)), patient=True)
    node.start()
    heart = Heart(node, systemd.notifier, time.clock)
    door = node.pipelines[0]
    while door.tally["published"] < 2 or door.work() is None:
        pass
    hung_since_ns = door.work().since_ns
    time.now_s = hung_since_ns / 1e9
    heart.turn()
    heart.beat()
    assert systemd.hear() == ["WATCHDOG=1"]
    time.now_s += 19
    heart.beat()
    assert systemd.hear() == ["WATCHDOG=trigger", "STATUS=pipeline door: a frame is in work for 19 s"]
    heart.beat()  # Once is enough, and no sign of life is given any more.
    assert systemd.hear_nothing()
    door._model._runtime.close()
    node.close()


def test_a_paused_pipeline_is_well(systemd, time):
    node = Node(Config(pipeline=(pipeline("door"),)), patient=True)
    node.start()
    node.pause(None)
    heart = Heart(node, systemd.notifier, time.clock)
    while node.pipelines[0].tally["dropped.paused"] < 2:
        pass
    heart.beat()
    assert systemd.hear() == ["WATCHDOG=1"]
    assert Status(time.clock).line(node) == "door paused"
    node.close()


def test_a_loop_that_hangs_is_no_sign_of_life(systemd, time):
    node = Node(Config(pipeline=(pipeline("door"),)), patient=True)
    heart = Heart(node, systemd.notifier, time.clock)
    time.now_s += 301
    heart.beat()
    assert systemd.hear()[0] == "WATCHDOG=trigger"
    heart.turn()
    heart.beat()
    assert systemd.hear() == ["WATCHDOG=1"]
    node.close()
