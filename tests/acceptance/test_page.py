"""The page in a real browser: what it shows, what it asks for, and that nothing is sent to who does not look."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from edgeinfer.board import Vitals, Watch
from edgeinfer.config import Config, GovernorConfig, PipelineConfig, UplinkConfig, WebConfig
from edgeinfer.node import Node
from edgeinfer.updates.store import Store
from edgeinfer.web.web import Web

BUNDLE = Path(__file__).parents[2] / "models" / "blood-cells"
TOKEN = "0123456789abcdef0123"
SMEAR = "synthetic://blood-smear?fps=5"
CARD = "synthetic://test-card?fps=10&width=160&height=120"
PHONE_PX = 390


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    words = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--window-size=1300,1000"]
    if os.geteuid() == 0:
        words.append("--no-sandbox")  # Root has none.
    for word in (*words, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


class Reader:
    """Somebody before the page of a node."""

    def __init__(self, browser: webdriver.Chrome, web: Web, node: Node) -> None:
        self.browser, self.web, self.node = browser, web, node

    def open(self, path: str = "") -> None:
        self.browser.get(self.web.url + path)

    def find(self, selector: str) -> WebElement:
        """Once it is there and can be seen."""
        return self.wait_for(lambda: self._seen(selector), selector)

    def _seen(self, selector: str) -> WebElement | None:
        try:
            return next((each for each in self.all(selector) if each.is_displayed()), None)
        except StaleElementReferenceException:
            return None  # It was still of the page before.

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def script(self, body: str):
        return self.browser.execute_script(body)

    def wait_for(self, condition, what: str = ""):
        deadline = time.monotonic() + 60
        while not (found := condition()):
            assert time.monotonic() < deadline, what or condition
            time.sleep(0.05)
        return found

    def wait_for_text(self, selector: str, text: str) -> None:
        self.wait_for(
            lambda: self.script(f"return document.querySelector({selector!r})?.textContent.includes({text!r})"),
            f"{selector} with {text}",
        )

    def wait_for_pictures(self, count: int = 1) -> None:
        self.wait_for(
            lambda: (
                self.script("return [...document.images].filter(e => e.matches('.live') && e.naturalWidth > 0).length")
                >= count
            ),
            f"{count} live pictures",
        )

    def viewers(self) -> int:
        return sum(each.viewers for each in self.web._watch.state().pipelines)

    def complaints(self) -> list[str]:
        return [each["message"] for each in self.browser.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]

    def asked_for(self) -> list[str]:
        """All that the browser has asked any server for."""
        events = [json.loads(each["message"])["message"] for each in self.browser.get_log("performance")]
        return [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]


@pytest.fixture
def reading(chromium, tmp_path, monkeypatch, state):
    """A page before a browser that has forgotten everything."""
    monkeypatch.setenv("EDGEINFER_STATE", str(state))
    (tmp_path / "token").write_text(TOKEN)

    @contextmanager
    def read(
        *pipelines: PipelineConfig, listen: str = "127.0.0.1:0", patient: bool = False, **words
    ) -> Iterator[Reader]:
        chromium.get("about:blank")
        chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
        chromium.get_log("browser")
        chromium.get_log("performance")
        with closing(Web(WebConfig(listen=listen, token_file=str(tmp_path / "token")))) as web:
            config = Config(pipeline=pipelines, node="pi-7", **words)
            node = Node(config, sinks_for=web.sinks_for, patient=patient)
            try:
                web.start(node)
                node.start()
                yield Reader(chromium, web, node)
                chromium.get("about:blank")
            finally:
                node.close()

    return read


def pipeline(name: str = "smear", source: str = SMEAR, device: str = "cpu", **more) -> PipelineConfig:
    return PipelineConfig(**{"model": "blood-cells", "name": name, "source": source, "device": device, **more})


@contextmanager
def seen_as(browser: webdriver.Chrome, *, width: int = 1300, scheme: str = "light"):
    """On a screen of so many pixels, in that colour scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_shows_what_happens_and_asks_nobody_but_the_node(reading):
    with reading(pipeline(), pipeline("card", CARD, "fake")) as reader:
        reader.open()
        reader.wait_for_pictures(2)
        reader.wait_for_text("#node", "pi-7")
        reader.wait_for_text("#condition", "all is well")
        reader.wait_for_text("[data-pipeline=smear] .seen", "RBC")
        reader.wait_for_text("[data-pipeline=smear] .badge", "live")
        reader.wait_for_text("[data-pipeline=smear] .chart output", "fps")
        reader.wait_for_text("#events", "RBC appeared")
        reader.wait_for_text("#board", "This process")
        # The chart has drawn seconds with results.
        reader.wait_for(lambda: "L" in reader.script("return document.querySelector('path.line').getAttribute('d')"))
        assert reader.complaints() == []
        asked = reader.asked_for()
        assert any("/live/smear.mjpg" in url for url in asked)
        assert [url for url in asked if not url.startswith((reader.web.url, "about:", "data:"))] == []


def test_an_event_opens_its_picture(reading):
    with reading(pipeline()) as reader:
        reader.open()
        reader.find("#events .thumb button").click()
        picture = reader.find("#viewer img")
        reader.wait_for(lambda: picture.get_property("naturalWidth") == 640)
        reader.wait_for_text("#viewer p", "smear: ")


def test_a_page_that_is_not_looked_at_costs_no_picture(reading):
    with reading(pipeline("card", CARD, "fake")) as reader:
        reader.open()
        reader.wait_for_pictures()
        assert reader.viewers() == 1
        first = reader.browser.current_window_handle
        reader.browser.switch_to.new_window("tab")
        reader.wait_for(lambda: reader.viewers() == 0, "nobody watches")
        reader.browser.close()
        reader.browser.switch_to.window(first)
        reader.wait_for(lambda: reader.viewers() == 1, "somebody watches again")
        reader.browser.get("about:blank")
        reader.wait_for(lambda: reader.viewers() == 0, "nobody watches")


def test_of_many_pipelines_four_are_live_and_the_others_when_asked_for(reading):
    with (
        reading(*(pipeline(f"c{number}", CARD, "fake") for number in range(6))) as reader,
        seen_as(reader.browser, width=2600),
    ):
        reader.open()
        reader.wait_for_pictures(4)
        reader.wait_for_text("[data-pipeline=c5] .badge", "not watched")
        reader.find("[data-pipeline=c5] .watch").click()
        reader.wait_for_text("[data-pipeline=c5] .badge", "live")
        reader.wait_for(lambda: reader.viewers() == 4, "four live pictures")
        # And the numbers still come: the browser has connections left.
        before = reader.find("[data-pipeline=c5] .stat:last-child b").text
        reader.wait_for(lambda: reader.find("[data-pipeline=c5] .stat:last-child b").text != before)


def test_it_fits_a_phone(reading):
    long = "a-very-long-name-of-a-pipeline-that-somebody-chose-for-its-clarity"[:64]
    with (
        reading(pipeline(), pipeline(long, CARD, "fake"), uplink=UplinkConfig(url="mqtt://127.0.0.1:1")) as reader,
        seen_as(reader.browser, width=PHONE_PX),
    ):
        reader.open()
        reader.wait_for_pictures()
        reader.wait_for_text("#condition", "degraded")
        reader.script("for (const each of document.querySelectorAll('details')) each.open = true")
        reader.wait_for_text("#events", "RBC")
        assert reader.script("return document.documentElement.scrollWidth") == PHONE_PX
        assert reader.script("return document.querySelector('.frame').getBoundingClientRect().width") > PHONE_PX - 40


def luminance(reader: Reader, style: str, selector: str) -> float:
    words = reader.script(f"return getComputedStyle(document.querySelector({selector!r})).{style}")
    return sum(float(part) for part in words[words.index("(") + 1 : -1].split(",")[:3]) / 3 / 255


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_goes_by_the_colours_of_the_system(reading, scheme):
    with reading(pipeline("card", CARD, "fake")) as reader, seen_as(reader.browser, scheme=scheme):
        reader.open()
        reader.wait_for_text("#condition", "all is well")
        back, ink = luminance(reader, "backgroundColor", ".card"), luminance(reader, "color", "body")
        assert abs(back - ink) > 0.7
        assert (back < ink) == (scheme == "dark")


def test_only_who_has_signed_in_can_act(reading):
    with reading(pipeline("card", CARD, "fake")) as reader:
        reader.open()
        reader.wait_for_pictures()
        assert not any(each.is_displayed() for each in reader.all(".controls"))
        reader.find("#sign-in").click()
        reader.find("#token").send_keys("wrong")
        reader.find("form button").click()
        reader.wait_for_text("#wrong", "wrong token")
        reader.find("#token").clear()
        reader.find("#token").send_keys(TOKEN)
        reader.find("form button").click()
        reader.find(".controls button").click()
        reader.wait_for_text(".badge", "paused")
        assert reader.node.pipelines[0].state == "paused"
        reader.find(".controls button").click()
        reader.wait_for(lambda: reader.node.pipelines[0].state == "ok")
        slide = "const s = document.querySelector('.controls input'); s.value = 0.8;"
        reader.script(slide + "s.dispatchEvent(new Event('input')); s.dispatchEvent(new Event('change'))")
        reader.wait_for(lambda: reader.node.pipelines[0].facts.bundle.decode.score_min == 0.8)
        reader.find("#sign-out").click()
        reader.find("#sign-in")


def test_on_the_network_it_asks_for_the_token_first(reading):
    with reading(pipeline("card", CARD, "fake"), listen="0.0.0.0:0") as reader:
        reader.open()
        reader.find("#token").send_keys(TOKEN)
        reader.find("form button").click()
        reader.wait_for_pictures()


def test_a_camera_that_went_away_is_not_passed_off_as_live(reading):
    # It is away for half a second, there for one picture, and away again: most of the time there is something to see.
    gone = pipeline("card", CARD + "&lose_after=1", "fake")
    with reading(gone) as reader:
        reader.open()
        reader.wait_for_text(".badge", "camera away")
        reader.wait_for_text("#troubles", "card degraded: source lost")
        reader.wait_for(lambda: reader.all(".frame.stale"))


def test_a_pipeline_that_does_not_run_has_a_card_that_says_why_until_it_does(reading, tmp_path):
    late = tmp_path / "late.ppm"
    with reading(pipeline("card", CARD, "fake"), pipeline("film", str(late), "fake"), patient=True) as reader:
        reader.open()
        reader.wait_for_text("[data-trouble=film]", "late.ppm")
        reader.wait_for_text("#condition", "degraded")
        reader.wait_for_text("#troubles", "film failed: ")
        runs, waits = reader.find("[data-pipeline=card]"), reader.find("[data-trouble=film]")
        assert (runs.location["y"], runs.location["x"] < waits.location["x"]) == (waits.location["y"], True)
        late.write_bytes(b"P6 2 2 255\n" + bytes(12))
        reader.wait_for(lambda: reader.node.mend() or not reader.node.troubles)
        reader.find("[data-pipeline=film]")
        reader.wait_for(lambda: not reader.all("[data-trouble=film]"))


def test_where_an_update_stands_is_said_until_it_is_undone(reading):
    door = pipeline("door", SMEAR.replace("fps=5", "fps=30"), "fake", model="slot:cells")
    with closing(Store()) as store:
        store.add(BUNDLE, "cells")
        with reading(door) as reader:
            reader.open()
            reader.wait_for_text(".slot", "cells release 0, committed")
            store.stage(BUNDLE, "cells", 1)
            reader.wait_for_text(".slot.warn", "cells release 0, trial, candidate 1, 2 more attempts")
            store.go_back("cells", "it looks wrong")
            reader.wait_for_text(".slot.bad", "cells release 0, rolled back: it looks wrong")
            assert reader.complaints() == []


def test_why_the_governor_slows_down_is_said(reading, monkeypatch):
    monkeypatch.setattr(Watch, "look", lambda watch: Vitals(throttled=("the kernel throttles (cpufreq-cpu0)",)))
    with reading(pipeline("card", CARD, "fake"), governor=GovernorConfig()) as reader:
        reader.open()
        reader.wait_for_text("#board", "Slowed down")
        reader.wait_for_text("#board", "the kernel throttles (cpufreq-cpu0)")


def test_a_node_that_ends_is_said_to_be_unreachable(reading):
    with reading(pipeline("card", CARD, "fake")) as reader:
        reader.open()
        reader.wait_for_pictures()
        reader.web.close()
        reader.wait_for_text("#condition", "unreachable")
        reader.wait_for_text("#troubles", "No answer from the node")
        reader.wait_for(lambda: reader.all(".frame.stale"))
