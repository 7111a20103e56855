"""Streams as they come, and not as they should: bursts, other sizes, headers and timestamps that are wrong."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest

WAYS = {"plain": (), "gated": ("--gate", "motion"), "limited": ("--rate", "5"), "young": ("--max-age", "2000")}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def write_video(path, codec, *, frames=30, size=(320, 240)):
    """A gray that changes with every frame, 30 a second."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 30, size)
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), 60 + 4 * index, np.uint8))
    writer.release()


def without_rate(content):
    """An AVI whose header says 0 microseconds a frame, and 0 frames a second."""
    patched = bytearray(content)
    struct.pack_into("<I", patched, patched.index(b"avih") + 8, 0)
    # strh: a tag, its length, then dwRate after six fields of 28 bytes.
    struct.pack_into("<I", patched, patched.index(b"strh") + 8 + 24, 0)
    return bytes(patched)


def run_all(edgeinfer, source, *words):
    """Every kind of output at once, and the lines of the first."""
    ran = edgeinfer(
        "run", "--model", "blood-cells", "--source", source, *words, "-o", "-", "-o", "a.mp4", "-o", "a.csv"
    )
    assert ran.code == 0, ran.err
    assert "Traceback" not in ran.err
    return ran.results


def test_a_header_of_0_fps_is_a_video_all_the_same(edgeinfer, tmp_path, way):
    write_video(tmp_path / "whole.avi", "MJPG")
    (tmp_path / "zero.avi").write_bytes(without_rate((tmp_path / "whole.avi").read_bytes()))
    results = run_all(edgeinfer, "zero.avi", *way)
    positions_s = [result["position_s"] for result in results]
    assert positions_s == sorted(set(positions_s))
    # FFmpeg takes it for 25 frames a second: 1.2 s, of which a rate of 5 leaves six frames.
    assert [result["seq"] for result in results] == list(range(0, 30, 5 if "--rate" in way else 1))
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == len(results)
    video.release()


def test_timestamps_that_go_back_in_a_file_go_on_in_its_results(edgeinfer, tmp_path, way):
    write_video(tmp_path / "once.ts", "mpg2")
    once = (tmp_path / "once.ts").read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)
    results = run_all(edgeinfer, "twice.ts", *way)
    positions_s = [result["position_s"] for result in results]
    assert positions_s == sorted(set(positions_s))
    assert positions_s[-1] > 1.5
    assert len(results) == (10 if "--rate" in way else 60)


def test_a_size_that_changes_in_a_stream_is_that_of_each_result(edgeinfer, tmp_path, way):
    results = run_all(edgeinfer, "synthetic://blood-smear?frames=24&fps=30&resize_every=6", *way)
    for result in results:
        whole = result["seq"] // 6 % 2 == 0
        assert (result["source"]["width"], result["source"]["height"]) == ((640, 480) if whole else (320, 240))
    assert len(results) == (4 if "--rate" in way else 24)
    # What was seen at one size is never said of a picture of another.
    by_seq = {result["seq"]: result for result in results}
    for result in results:
        if result.get("reused"):
            assert result["source"] == by_seq[result["inferred_seq"]]["source"]


def test_a_file_that_goes_on_in_another_size_is_read_on(edgeinfer, tmp_path):
    write_video(tmp_path / "large.ts", "mpg2")
    write_video(tmp_path / "small.ts", "mpg2", size=(160, 128))
    (tmp_path / "both.ts").write_bytes((tmp_path / "large.ts").read_bytes() + (tmp_path / "small.ts").read_bytes())
    # FFmpeg itself loses a frame where its decoder begins anew.
    assert len(run_all(edgeinfer, "both.ts")) >= 59


def test_of_a_burst_the_newest_frame_is_inferred_and_the_others_are_counted(edgeinfer, way):
    ran = edgeinfer(
        *("run", "--model", "blood-cells", "--device", "fake:latency_ms=20", "--profile"),
        *("--source", "synthetic://test-card?fps=100&frames=200&live=1&burst=50", *way),
    )
    assert ran.code == 0, ran.err
    seqs = [result["seq"] for result in ran.results]
    assert seqs == sorted(set(seqs))
    dropped = sum(int(part.split()[0]) for part in ran.err.splitlines()[-1].removeprefix("dropped: ").split(", "))
    assert len(seqs) + dropped == 200
    assert dropped > 100


@pytest.mark.parametrize("live", ["", "&live=1&fps=200"])
def test_an_output_that_is_never_read_keeps_neither_the_frames_of_a_camera_nor_a_stop(environment, tmp_path, live):
    source = f"synthetic://test-card?frames=999999{live}"
    words = ["run", "--model", "blood-cells", "--device", "fake", "--source", source, "-o", "-", "-o", "a.jsonl"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeinfer", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    other = tmp_path / "a.jsonl"
    # A pipe holds 64 kB: 200 lines or less, and the queue before it 256. A camera's other output goes on and on.
    while not other.exists() or other.stat().st_size < (500_000 if live else 64_000):
        assert process.poll() is None
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert "output - does not take results" in process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    seqs = [json.loads(line)["seq"] for line in other.read_text().splitlines()]
    assert seqs == sorted(set(seqs))
