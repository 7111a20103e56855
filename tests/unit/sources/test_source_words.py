"""What a user types leads to the right driver, or to one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeinfer.errors import SourceError
from edgeinfer.sources import SOURCES, SourceOptions, open_source
from edgeinfer.sources.options import Query, check, from_query
from edgeinfer.sources.words import driver_name

NAMES = ("camera", "images", "rtsp", "synthetic", "video", "wafer")


def fails(word: str, *, options: SourceOptions | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        open_source(word, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "driver"),
    [
        ("/dev/video0", "camera"),
        ("/dev/v4l/by-id/usb-Cam-index0", "camera"),
        ("camera://0", "camera"),
        ("CAMERA://0?width=640", "camera"),
        ("rtsp://host/x", "rtsp"),
        ("rtsps://host/x", "rtsp"),
        ("http://host/stream.mjpg", "rtsp"),
        ("https://host/stream.m3u8", "rtsp"),
        ("synthetic://noise", "synthetic"),
        ("serial:///dev/ttyUSB0?baud=9600", "serial"),
        ("mic://", "mic"),
        ("sqlite:///a.db?table=t", "sqlite"),
        ("mqtt://broker/a/+", "mqtt"),
        ("mqtts://broker/a", "mqtt"),
        ("-", "stdin"),
        ("-?format=csv", "stdin"),
        ("wafer://3", "wafer"),
        ("no/such/*.jpg", "images"),
    ],
)
def test_a_word_names_its_driver(word: str, driver: str) -> None:
    assert driver_name(word, NAMES) == driver


def test_files_go_by_suffix_then_by_content(tmp_path: Path, make_video: object, picture: np.ndarray) -> None:
    import cv2

    video = make_video("clip.mp4")  # type: ignore[operator]
    bare_video = tmp_path / "clip"
    bare_video.write_bytes(video.read_bytes())
    bare_image = tmp_path / "photo"
    bare_image.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    assert driver_name(str(video), NAMES) == "video"
    assert driver_name(str(bare_video), NAMES) == "video"
    assert driver_name(str(bare_image), NAMES) == "images"
    assert driver_name(str(tmp_path), NAMES) == "images"
    upper = tmp_path / "PHOTO.JPG"
    upper.write_bytes(b"x")
    assert driver_name(str(upper), NAMES) == "images"


def test_a_file_with_a_bracket_in_its_name_is_that_file(tmp_path: Path, make_video: object) -> None:
    video = make_video("clip[1].mp4")  # type: ignore[operator]
    assert driver_name(str(video), NAMES) == "video"


@pytest.mark.parametrize("word", ["video://x", "images://x"])
def test_a_driver_for_files_is_no_scheme(word: str) -> None:
    with pytest.raises(SourceError, match="unknown source"):
        driver_name(word, NAMES)


def test_unknown_scheme_names_the_nearest() -> None:
    assert "did you mean 'synthetic://'?" in fails("sythetic://noise")
    assert "rtsp://" in fails("rstp://host/x")


def test_missing_file_names_a_neighbour_or_a_word(tmp_path: Path) -> None:
    (tmp_path / "traffic.mp4").write_bytes(b"x")
    message = fails(str(tmp_path / "trafic.mp4"))
    assert message.startswith("no such file: ")
    assert "traffic.mp4" in message
    assert "'synthetic://'" in fails("synthetik")


def test_what_is_said_of_a_file_of_samples_is_no_part_of_its_name(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("time,a\n1,2\n")
    assert driver_name(f"{log}?follow=1", NAMES) == "csv"
    odd = tmp_path / "odd.csv?follow=1"
    odd.write_bytes(b"\xff\xd8\xff")
    assert driver_name(str(odd), NAMES) == "images"
    assert "no such file: " in fails(f"{tmp_path}/lob.csv?follow=1")
    assert "log.csv" in fails(f"{tmp_path}/lob.csv?follow=1")
    bare = tmp_path / "sound"
    bare.write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    assert driver_name(str(bare), NAMES) == "wav"


def test_bad_files_are_one_line_each(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("#EXTM3U\nhttp://127.0.0.1:9/x\n")
    notes = tmp_path / "notes.txt"
    notes.write_text("Käse\n" * 500)
    blob = tmp_path / "blob"
    blob.write_bytes(bytes(range(256)))
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "is empty" in fails(str(empty))
    assert "is text, not a video" in fails(str(text))
    assert "is text" in fails(str(notes))
    assert "neither an image nor a video" in fails(str(blob))
    assert "no images in the folder" in fails(str(folder))
    assert "no image matches" in fails(str(folder / "*.jpg"))
    assert "neither a file nor a folder" in fails("/dev/null")
    assert "empty" in fails("")
    assert "too long" in fails("x" * 5000)
    assert "no such file" in fails("a\0b")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (SourceOptions(width=0), "width 0"),
        (SourceOptions(height=99999), "height 99999"),
        (SourceOptions(fps=0.0), "fps 0"),
        (SourceOptions(fps=float("nan")), "fps nan"),
        (SourceOptions(pixel_format="MJPEG"), "'MJPEG'"),
        (SourceOptions(read_timeout_s=0.0), "read_timeout_s 0"),
    ],
)
def test_impossible_options_are_refused(options: SourceOptions, says: str) -> None:
    with pytest.raises(SourceError, match=f"{says} is impossible"):
        check(options)
    assert says in fails("synthetic://noise", options=options)


def test_a_query_lies_over_the_options() -> None:
    options = SourceOptions(width=1, height=2, read_timeout_s=3.0)
    merged = from_query(options, "width=1280&fps=29.97&format=MJPG", "camera://0?…")
    assert merged == SourceOptions(width=1280, height=2, fps=29.97, pixel_format="MJPG", read_timeout_s=3.0)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("widht=3", "did you mean 'width'"),
        ("width=-3", "width=-3"),
        ("width=x", "width=x"),
        ("width=", "width="),
        ("fps=inf", "fps=inf"),
        ("fps=0", "fps 0"),
        ("format=MJPEG", "pixel format 'MJPEG'"),
        ("width=3&width=4", "twice"),
        ("width", "name=value"),
        ("width=99999999999999999999", "impossible"),
    ],
)
def test_a_bad_query_is_refused(query: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        from_query(SourceOptions(), query, f"camera://0?{query}")


def test_an_empty_query_says_nothing() -> None:
    Query("", "camera://0?").done()


def test_every_driver_of_the_table_loads() -> None:
    for name in SOURCES.names():
        assert callable(SOURCES.get(name))
