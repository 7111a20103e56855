"""The page's server before a running node, asked over HTTP as browsers, probes and Prometheus do."""

from __future__ import annotations

import http.client
import json
import logging
import re
import select
import socket
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgeinfer.cli import main
from edgeinfer.config import Config, PipelineConfig, UplinkConfig, WebConfig
from edgeinfer.errors import UsageError
from edgeinfer.node import Node
from edgeinfer.paths import data_folders
from edgeinfer.updates.store import Store
from edgeinfer.web.web import Web

TOKEN = "0123456789abcdef0123"
DOCS = Path(__file__).parents[3] / "docs"
LIVE = "synthetic://test-card?fps=50&width=64&height=48"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))


@pytest.fixture
def token_file(tmp_path) -> str:
    (tmp_path / "token").write_text(TOKEN + "\n")
    return str(tmp_path / "token")


def pipeline(name: str = "door", **more) -> PipelineConfig:
    return PipelineConfig(**{"model": "blood-cells", "name": name, "source": LIVE, "device": "fake", **more})


class Site:
    """A node with its page."""

    def __init__(self, node: Node, web: Web) -> None:
        self.node, self.web = node, web
        self.port = int(web.url.rstrip("/").rpartition(":")[2])

    def ask(self, path: str, method: str = "GET", body: str | None = None, **headers: str):
        """The answer and its body."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer, answer.read()

    def json(self, path: str, **headers: str):
        answer, body = self.ask(path, **headers)
        assert answer.status in (200, 503), body
        return json.loads(body)

    def wait_for(self, condition) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def wait_for_results(self) -> None:
        self.wait_for(lambda: all(each.latest is not None for each in self.node.pipelines))


@contextmanager
def site(*pipelines: PipelineConfig, web: WebConfig | None = None, **words):
    with closing(Web(web or WebConfig(listen="127.0.0.1:0"))) as page:
        node = Node(Config(pipeline=pipelines or (pipeline(),), node="pi-7", **words), sinks_for=page.sinks_for)
        try:
            page.start(node)
            node.start()
            yield Site(node, page)
        finally:
            node.close()


def test_a_probe_sees_a_node_come_up_work_and_end():
    with site() as here:
        here.wait_for_results()
        answer, body = here.ask("/healthz")
        assert (answer.status, json.loads(body)["condition"]) == (200, "ok")
    with pytest.raises(ConnectionError):
        here.ask("/healthz")


def test_a_node_without_a_pipeline_that_works_is_unhealthy():
    with site(pipeline(source="synthetic://test-card?fps=50&silent=1")) as here:
        answer, body = here.ask("/healthz")
        assert (answer.status, json.loads(body)["condition"]) == (503, "starting")


def test_the_state_tells_what_each_pipeline_does():
    with site(pipeline("a"), pipeline("b")) as here:
        here.wait_for_results()
        here.node.pause("b")
        state = here.json("/api/state")
        assert (state["node"], state["may_act"], state["uplink"]) == ("pi-7", False, None)
        a, b = state["pipelines"]
        assert (a["name"], a["state"], a["device"], a["ladder"]) == ("a", "ok", "fake", {"fake": "in use"})
        assert (a["task"], a["model"]["name"], a["source"]) == ("detect", "blood-cells", LIVE)
        assert a["counts"]["published"] >= 1
        assert (b["state"], b["viewers"]) == ("paused", 0)


def test_history_events_and_log_are_given_from_where_one_was(caplog):
    caplog.set_level(logging.INFO, "edgeinfer")
    with site() as here:
        here.wait_for(lambda: len(here.json("/api/history?after=0")["door"]) >= 2)
        first, second, *_ = here.json("/api/history?after=0")["door"]
        assert here.json(f"/api/history?after={first[0]}")["door"][0] == second
        log = here.json("/api/log?after=0")
        assert log[-1]["message"].startswith("the page is at http://127.0.0.1:")
        assert here.json(f"/api/log?after={log[-1]['number']}") == []
        assert here.json("/api/events?after=nonsense") == []
        assert here.ask("/events/1.jpg")[0].status == 404


def test_a_reload_keeps_the_history_of_a_pipeline():
    wanted = [Config(pipeline=(pipeline(score_min=0.5),), node="pi-7")]
    with closing(Web(WebConfig(listen="127.0.0.1:0"))) as page:
        config = Config(pipeline=(pipeline(),), node="pi-7")
        node = Node(config, sinks_for=page.sinks_for, reread=lambda: wanted[0])
        with closing(node):
            page.start(node)
            node.start()
            here = Site(node, page)
            here.wait_for(lambda: here.json("/api/history?after=0")["door"])
            before = here.json("/api/history?after=0")["door"][0]
            node.reload()
            node.apply_reload()
            here.wait_for_results()
            assert here.json("/api/history?after=0")["door"][0] == before
            assert here.json("/api/state")["pipelines"][0]["score_min"] == 0.5


def pictures(port: int, count: int, path: str = "/live/door.mjpg"):
    """The first parts of a live picture, and how the server sees it end."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.getheader("content-type") == "multipart/x-mixed-replace; boundary=edgeinfer-picture"
        for _ in range(count):
            while not (line := answer.readline()).startswith(b"Content-Length"):
                assert line
            assert answer.readline() == b"\r\n"
            yield answer.read(int(line.partition(b":")[2]))


def test_a_live_picture_comes_while_it_is_watched_and_is_not_made_afterwards():
    with site() as here:
        here.wait_for_results()
        watching = pictures(here.port, 3)
        assert next(watching).startswith(b"\xff\xd8")
        assert here.json("/api/state")["pipelines"][0]["viewers"] == 1
        assert [each[-2:] for each in watching] == [b"\xff\xd9"] * 2
        here.wait_for(lambda: here.json("/api/state")["pipelines"][0]["viewers"] == 0)
        assert here.ask("/live/hall.mjpg")[0].status == 404


def test_who_watches_does_not_hold_up_the_end():
    with site() as here:
        here.wait_for_results()
        watching = pictures(here.port, 10)
        next(watching)
        begun = time.monotonic()
        here.web.close()
        assert time.monotonic() - begun < 2.9  # It would wait for 3 s for its thread.
        watching.close()


def test_metrics_are_as_prometheus_reads_them():
    uplink = UplinkConfig(url="mqtt://127.0.0.1:1")
    with site(pipeline("a"), pipeline("b"), uplink=uplink) as here:
        here.wait_for_results()
        answer, body = here.ask("/metrics")
        assert answer.status == 200
        assert answer.getheader("content-type").startswith("text/plain; version=")
        found = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert found["edgeinfer_info"].samples[0].labels["node"] == "pi-7"
    frames = {(each.labels["pipeline"], each.labels["stage"]): each.value for each in found["edgeinfer_frames"].samples}
    assert frames["a", "published"] >= 1
    assert frames["b", "captured"] >= frames["b", "inferred"] >= 1
    for stage in ("age", "infer", "decode"):
        samples = found[f"edgeinfer_{stage}_seconds"].samples
        counts = [each.value for each in samples if each.name.endswith("_bucket") and each.labels["pipeline"] == "a"]
        assert counts == sorted(counts)
        assert counts[-1] == next(s.value for s in samples if s.name.endswith("_count") and s.labels["pipeline"] == "a")
    ok = [each for each in found["edgeinfer_pipeline_state"].samples if each.value == 1]
    assert {(each.labels["pipeline"], each.labels["state"]) for each in ok} == {("a", "ok"), ("b", "ok")}
    assert found["edgeinfer_uplink_connected"].samples[0].value == 0
    assert {"edgeinfer_spool_messages", "edgeinfer_device", "process_resident_memory_bytes"} <= found.keys()


def test_a_slot_is_told_with_its_release_and_its_state(capsys):
    with closing(Store()) as store:
        store.add(
            next(each / "blood-cells" for each in data_folders("models") if (each / "blood-cells").is_dir()), "cells"
        )
    with site(pipeline(model="slot:cells")) as here:
        here.wait_for(lambda: here.json("/api/state")["models"])
        (slot,) = here.json("/api/state")["models"]
        told = text_string_to_metric_families(here.ask("/metrics")[1].decode())
        found = {family.name: family.samples for family in told}
        assert main(["top", here.web.url, "--once"]) == 0
    assert (slot["slot"], slot["release"], slot["state"]) == ("cells", 0, "committed")
    assert [(each.labels["slot"], each.value) for each in found["edgeinfer_model_release"]] == [("cells", 0.0)]
    assert [each.labels["state"] for each in found["edgeinfer_model_state"] if each.value] == ["committed"]
    assert "SLOT      cells: release 0, committed" in capsys.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> str:
    """The metrics of a node that has everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEINFER_STATE", str(tmp_path_factory.mktemp("state")))
        with site(uplink=UplinkConfig(url="mqtt://127.0.0.1:1")) as here:
            here.wait_for_results()
            return here.ask("/metrics")[1].decode()


def test_the_dashboard_asks_for_what_a_node_tells(told):
    dashboard = (DOCS / "grafana.json").read_text()
    asked = set(re.findall(r"(?:edgeinfer|process)_[a-z_]+", " ".join(re.findall(r'"expr": "(.*)"', dashboard))))
    families = set(re.findall(r"^# TYPE (\S+) histogram$", told, re.M))
    names = set(re.findall(r"^# TYPE (\S+)", told, re.M))
    names |= {f"{family}_{part}" for family in families for part in ("bucket", "sum", "count")}
    assert asked - names == set()
    assert len(asked) > 15


def test_each_metric_is_documented_and_each_that_is_documented_is_told(told):
    names = {name for name in re.findall(r"^# TYPE (\S+)", told, re.M) if name.startswith("edgeinfer_")}
    table = (DOCS / "web.md").read_text().partition("### Metrics")[2].partition("\n## ")[0]
    columns = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `edgeinfer_")]
    documented = [name for column in columns for name in re.findall(r"`(edgeinfer_[a-z_]+)`", column)]
    assert sorted(documented) == sorted(names)


def test_the_page_may_load_nothing_from_elsewhere_and_stand_in_no_frame():
    with site() as here:
        for path in ("/", "/page.css", "/page.js", "/api/state", "/nothing"):
            answer, _ = here.ask(path)
            policy = answer.getheader("content-security-policy")
            assert policy.startswith("default-src 'none'; ")
            assert "http" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.getheader("x-content-type-options") == "nosniff"
        assert here.ask("/../server.py")[0].status == 404
        assert here.ask("/login.html")[0].status == 404


def test_a_name_that_is_not_ours_is_refused_without_a_token(token_file):
    web = WebConfig(listen="127.0.0.1:0", token_file=token_file, hosts=("pi.lan",))
    with site(web=web) as here:
        assert here.ask("/api/state", Host="evil.example")[0].status == 421
        assert here.ask("/live/door.mjpg", Host="evil.example")[0].status == 421
        assert here.ask("/api/state", Host="pi.lan:8080")[0].status == 200
        assert here.ask("/api/state", Host="evil.example", Authorization=f"Bearer {TOKEN}")[0].status == 200


def test_nobody_acts_without_the_token(token_file):
    with site() as no_token, site(web=WebConfig(listen="127.0.0.1:0", token_file=token_file)) as here:
        for each in (no_token, here):
            for action in ("pause", "threshold"):
                answer, body = each.ask(f"/api/pipelines/door/{action}", "POST", "{}", Authorization="Bearer wrong")
                assert (answer.status, json.loads(body)) == (403, {"error": "to act needs the token"})
            assert each.node.pipelines[0].state != "paused"


def test_who_brings_the_token_acts(token_file):
    with site(web=WebConfig(listen="127.0.0.1:0", token_file=token_file)) as here:
        own = {"Authorization": f"Bearer {TOKEN}"}
        assert here.ask("/api/pipelines/door/pause", "POST", **own)[0].status == 204
        assert here.node.pipelines[0].state == "paused"
        assert here.ask("/api/pipelines/door/resume", "POST", **own)[0].status == 204
        assert here.ask("/api/pipelines/door/threshold", "POST", '{"score_min": 0.75}', **own)[0].status == 204
        state = here.json("/api/state", **own)
        assert (state["may_act"], state["pipelines"][0]["score_min"]) == (True, 0.75)


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("dor/pause", "", "did you mean 'door'"),
        ("door/explode", "", "there are pause, resume and threshold"),
        ("door/threshold", '{"score_min": 2}', "<= 1.0"),
        ("door/threshold", '{"score_min": "0.5"}', "Expected `float`"),
        ("door/threshold", "{" * 3000, "threshold: "),
        ("door/threshold", " " * 10_000, "at most 4096 bytes"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(token_file, path, body, error):
    with site(web=WebConfig(listen="127.0.0.1:0", token_file=token_file)) as here:
        answer, said = here.ask(f"/api/pipelines/{path}", "POST", body, Authorization=f"Bearer {TOKEN}")
        assert answer.status == 400
        assert error in json.loads(said)["error"]


def test_a_browser_signs_in_once_and_another_page_cannot_act_by_its_cookie(token_file):
    with site(web=WebConfig(listen="127.0.0.1:0", token_file=token_file)) as here:
        assert here.ask("/login", "POST", "wrong")[0].status == 401
        answer, _ = here.ask("/login", "POST", TOKEN)
        cookie = answer.getheader("set-cookie")
        assert answer.status == 204
        assert TOKEN not in cookie
        assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
        own = {"Cookie": cookie.partition(";")[0]}
        pause = "/api/pipelines/door/pause"
        assert here.ask(pause, "POST", **own, Origin="http://evil.example")[0].status == 403
        assert here.ask(pause, "POST", **own, Origin=f"http://127.0.0.1:{here.port}")[0].status == 204
        assert "edgeinfer-" in here.ask("/logout", "POST", **own)[0].getheader("set-cookie")


def test_on_the_network_everything_but_the_way_in_needs_the_token(token_file):
    with site(web=WebConfig(listen="0.0.0.0:0", token_file=token_file)) as here:
        for path in ("/healthz", "/metrics", "/api/state", "/live/door.mjpg", "/events/1.jpg", "/page.js"):
            answer, _ = here.ask(path)
            assert (path, answer.status, answer.getheader("www-authenticate")) == (path, 401, "Bearer")
        answer, _ = here.ask("/")
        assert (answer.status, answer.getheader("location")) == (303, "/login")
        assert {here.ask(path)[0].status for path in ("/login", "/login.js", "/page.css", "/icon.svg")} == {200}
        here.wait_for_results()
        assert here.ask("/healthz", Authorization=f"Bearer {TOKEN}")[0].status == 200


def test_an_address_that_is_taken_is_said_before_anything_is_opened():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            Web(WebConfig(listen=f"127.0.0.1:{port}"))


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01" * 400, b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000, b"GET /%00 HTTP/1.0\r\n\r\n"]
)
def test_nonsense_from_the_network_hurts_nobody(nonsense):
    with site() as here:
        here.wait_for_results()
        with closing(socket.create_connection(("127.0.0.1", here.port))) as stranger, suppress(ConnectionError):
            stranger.settimeout(30)
            stranger.sendall(nonsense)
            while stranger.recv(65536):
                pass
        assert here.json("/healthz")["condition"] == "ok"


def test_strangers_that_hold_connections_open_do_not_use_up_the_files_of_the_node():
    with site() as here, ExitStack() as held:
        where = ("127.0.0.1", here.port)
        strangers = [held.enter_context(closing(socket.create_connection(where))) for _ in range(100)]
        # What can be read from them is that they were hung up on.
        here.wait_for(lambda: len(select.select(strangers, [], [], 0)[0]) == 100 - 60)
        held.close()
        here.wait_for(lambda: here.ask("/healthz")[0].status == 200)


def test_every_file_of_the_page_is_served_or_asked_for():
    folder = Path(__file__).parents[3] / "edgeinfer" / "web" / "page"
    with site() as here:
        for file in folder.iterdir():
            path = {"index.html": "/", "login.html": "/login"}.get(file.name, f"/{file.name}")
            answer, body = here.ask(path)
            assert (file.name, answer.status, body) == (file.name, 200, file.read_bytes())
