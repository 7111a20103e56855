"""`edgeinfer top` before a node that answers, and before those that do not."""

from __future__ import annotations

import socketserver
import threading
from contextlib import closing, contextmanager

import pytest

from edgeinfer.cli import main
from edgeinfer.config import Config, PipelineConfig, WebConfig
from edgeinfer.event import Happening
from edgeinfer.node import Node
from edgeinfer.web.journal import EventJournal
from edgeinfer.web.web import Web

TOKEN = "0123456789abcdef0123"
LIVE = "synthetic://test-card?fps=50&width=64&height=48"


@pytest.fixture
def token(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    return tmp_path / "token"


@pytest.fixture
def url(tmp_path, monkeypatch, token):
    """Of a node that wants its token."""
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    with closing(Web(WebConfig(listen="0.0.0.0:0", token_file=str(token)))) as web:
        names = ("door", "hall")
        pipelines = tuple(PipelineConfig(model="blood-cells", source=LIVE, device="fake", name=name) for name in names)
        node = Node(Config(pipeline=pipelines, node="pi-7"), sinks_for=web.sinks_for)
        with closing(node):
            web.start(node)
            node.start()
            node.pause("hall")
            while node.pipelines[0].latest is None:
                pass
            yield web.url.replace("0.0.0.0", "127.0.0.1")


def test_it_shows_each_pipeline_with_its_state(url, token, capsys):
    assert main(["top", url, "--token-file", str(token), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pi-7 · ")
    door, hall = (next(line for line in lines if line.startswith(name)) for name in ("door", "hall"))
    assert door.split()[:2] == ["door", "ok"]
    assert "fake" in door
    assert hall.split()[:2] == ["hall", "paused"]
    assert any(line.startswith("PROCESS") for line in lines)
    assert max(map(len, lines)) <= 120


def test_an_event_of_a_rule_is_shown(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    journals = []
    begin = EventJournal.__init__
    monkeypatch.setattr(EventJournal, "__init__", lambda journal: (begin(journal), journals.append(journal))[0])
    config = PipelineConfig(model="blood-cells", source=LIVE, device="fake", name="door")
    with closing(Web(WebConfig(listen="127.0.0.1:0"))) as web:
        node = Node(Config(pipeline=(config,)), sinks_for=web.sinks_for)
        with closing(node):
            web.start(node)
            at, words = "2026-11-26T12:00:09Z", {"kind": "dwell", "rule": "loiterer", "label": "person", "track": 4}
            happened = Happening(node="pi-7", pipeline="door", occurred_at=at, **words)
            journals[0].add(happened, None)
            assert main(["top", web.url, "--once"]) == 0
    assert "12:00:09  door: loiterer: dwell person #4" in capsys.readouterr().out


def test_what_does_not_run_and_what_is_slowed_down_is_said(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(Node, "care", "cpu-thermal is at 76 °C, its limit is 80 °C")
    film = str(tmp_path / "absent.mp4")
    pipelines = (
        PipelineConfig(model="blood-cells", source=LIVE, device="fake", name="door"),
        PipelineConfig(model="blood-cells", source=film, device="fake", name="film"),
    )
    with closing(Web(WebConfig(listen="127.0.0.1:0"))) as web:
        node = Node(Config(pipeline=pipelines), sinks_for=web.sinks_for, patient=True)
        with closing(node):
            web.start(node)
            assert main(["top", web.url, "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("film"))
    assert lines[at].split() == ["film", "failed"]
    assert "tried again" in lines[at + 1]
    assert any(line.startswith("! film failed: no such file") for line in lines)
    assert "GOVERNOR  slows down: cpu-thermal is at 76 °C, its limit is 80 °C" in lines


def test_without_the_token_it_says_which_flag_brings_it(url, capsys):
    assert main(["top", url]) == 2
    assert "wants a token; --token-file FILE" in capsys.readouterr().err


@contextmanager
def answering(answer: bytes):
    """A server of something else."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "answers something else"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "answers 404: is it the page of edgeinfer?"),
        (b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "answers 302"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no answer from"),
        (b"", "no answer from"),
    ],
)
def test_what_is_no_page_is_one_line(answer, error, capsys):
    with answering(answer) as url:
        assert main(["top", url]) == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("url", ["https://pi:8080/", "http://", "http://pi:99999/", "http://u:p@pi/", "http://[::1/"])
def test_what_is_no_address_is_said(url, capsys):
    assert main(["top", url]) == 2
    assert "is not the address of a page" in capsys.readouterr().err


def test_a_node_that_is_not_there_is_said_with_what_to_do(capsys):
    assert main(["top", "127.0.0.1:1"]) == 2
    assert "Connection refused; is it running with --web" in capsys.readouterr().err
