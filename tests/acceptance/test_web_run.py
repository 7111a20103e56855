"""`--web` and `[web]` as a user types them, with a command and as a service."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

LIVE = "synthetic://test-card?fps=20&width=64&height=48"
PIPELINE = f'[[pipeline]]\nname = "door"\nmodel = "blood-cells"\nsource = "{LIVE}"\ndevice = "fake"\n'


@pytest.fixture
def running(environment, tmp_path):
    """A command that runs until it is told to end, and where its page is."""

    @contextmanager
    def run(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        command = [sys.executable, "-m", "edgeinfer", *words]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as process:
            try:
                url = next(found[1] for line in process.stderr if (found := re.search(r"the page is at (\S+)", line)))
                yield process, url
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=60)
            finally:
                process.kill()

    return run


def asked(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def wait_for(condition) -> None:
    while not condition():
        pass


def results(url: str) -> int:
    return asked(f"{url}api/state")["pipelines"][0]["counts"].get("published", 0)


def test_a_run_has_a_page_until_it_ends(running):
    with running("run", "--model", "blood-cells", "--source", LIVE, "--device", "fake", "--web", "0") as (process, url):
        wait_for(lambda: results(url) > 3)
        assert asked(f"{url}healthz")["condition"] == "ok"
    assert process.returncode == 130


def test_a_service_has_a_page_and_keeps_it_over_a_reload(running, tmp_path):
    config = tmp_path / "edgeinfer.toml"
    config.write_text('[web]\nlisten = "127.0.0.1:0"\n' + PIPELINE)
    with running("service", "run", "--config", str(config)) as (process, url):
        wait_for(lambda: results(url) > 3)
        config.write_text(config.read_text() + "score_min = 0.75\n")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: [each["score_min"] for each in asked(f"{url}api/state")["pipelines"]] == [0.75])
        wait_for(lambda: asked(f"{url}api/state")["pipelines"][0]["fps"] > 0)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("--web", "0.0.0.0:8080"), 2, "could be seen by everybody on the network; give it a token"),
        (("--web", "here"), 2, "the page's address 'here' is not HOST:PORT"),
        (("--web-token-file", "token"), 2, "--web-token-file is for a page, and none is asked for; --web 8080"),
        (("--web", "0", "--web-token-file", "no-such"), 6, "the page's token: cannot read no-such"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_a_model_is_opened(edgeinfer, words, code, error):
    ran = edgeinfer("run", "--model", "blood-cells", "--source", LIVE, "--device", "fake", *words)
    assert ran.code == code
    assert len(ran.err.splitlines()) == 1
    assert error in ran.err


def test_who_asks_for_no_page_loads_no_server(environment, tmp_path):
    program = "import sys; from edgeinfer.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    words = ["run", "--model", "blood-cells", "--source", "synthetic://test-card?frames=2", "--device", "fake"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--output", "out.jsonl"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=60,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"numpy", "edgeinfer"} <= loaded
    assert loaded & {"starlette", "uvicorn", "prometheus_client"} == set()
