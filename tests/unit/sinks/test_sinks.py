import csv
import os
import resource
import threading
from contextlib import closing, suppress

import cv2
import msgspec
import numpy as np
import pytest

from edgeinfer.draw import annotate
from edgeinfer.errors import OutputError
from edgeinfer.result import Anomaly, Detection, Inner, ModelInfo, RunLengths, Segment, Value
from edgeinfer.sinks import SinkOptions, open_sink, sink_name
from edgeinfer.sinks.memory import MemorySink

OPTIONS = SinkOptions()


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("-", "jsonl"),
        ("out.jsonl", "jsonl"),
        ("a/b.NDJSON", "jsonl"),
        ("t.csv", "csv"),
        ("v.mp4", "video"),
    ],
)
def test_the_ending_says_the_format(word, name):
    assert sink_name(word) == name


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("out.jsnl", "did you mean '.jsonl'"),
        ("out", "end it in .csv, .jsonl"),
        ("mqtt://host/", "a whole node sends there"),
    ],
)
def test_an_ending_that_says_nothing_is_refused(word, said):
    with pytest.raises(OutputError, match=said) as refused:
        sink_name(word)
    assert refused.value.exit_code == 2


def test_json_lines_are_there_before_the_sink_is_closed(tmp_path, make_result, read_results):
    path = tmp_path / "out.jsonl"
    sink = open_sink(str(path), OPTIONS)
    for seq in range(3):
        sink.write(make_result(seq), None)
    assert [result.seq for result in read_results(path)] == [0, 1, 2]
    sink.close()
    sink.close()
    with pytest.raises(OutputError, match="is closed"):
        sink.write(make_result(3), None)


@pytest.mark.parametrize(("name", "lines"), [("out.jsonl", 2), ("out.csv", 3)])
def test_lines_and_tables_go_on_where_they_are_wanted_to(tmp_path, make_result, name, lines):
    path = tmp_path / name
    for seq in range(2):
        with closing(open_sink(str(path), SinkOptions(append=True))) as sink:
            sink.write(make_result(seq), None)
    assert len(path.read_text().splitlines()) == lines


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_several_at_once_are_written_as_one_by_one(tmp_path, make_result, a_class, name):
    results = [make_result(0), make_result(1, detections=()), make_result(2, classes=(a_class,))]
    one_by_one, at_once = tmp_path / name, tmp_path / f"at-once-{name}"
    with closing(open_sink(str(one_by_one), OPTIONS)) as sink:
        for result in results:
            sink.write(result, None)
    with closing(open_sink(str(at_once), OPTIONS)) as sink:
        sink.write_many(results[:2])
        sink.write_many(results[2:])
    assert at_once.read_bytes() == one_by_one.read_bytes() != b""


def test_a_line_that_a_power_cut_left_unfinished_is_ended_first(tmp_path, make_result):
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"schema":"edgeinf')
    with closing(open_sink(str(path), SinkOptions(append=True))) as sink:
        sink.write(make_result(7), None)
    broken, whole = path.read_bytes().splitlines()
    assert broken == b'{"schema":"edgeinf'
    assert b'"seq":7' in whole


def test_csv_has_a_row_per_object_and_quotes_commas(tmp_path, make_result, a_class):
    path = tmp_path / "out.csv"
    sink = open_sink(str(path), OPTIONS)
    sink.write(make_result(0), None)
    sink.write(make_result(1, detections=()), None)
    sink.write(make_result(2, classes=(a_class,)), None)
    sink.close()
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["seq"], row["label"], row["score"], row["x_max"]) for row in rows] == [
        ("0", "cat, tabby", "0.5", "0.75"),
        ("2", "tabby", "0.7", ""),
    ]


def test_csv_has_the_landmarks_of_a_face_the_area_of_a_segment_and_a_row_per_keypoint(tmp_path, make_result):
    path = tmp_path / "out.csv"
    sink = open_sink(str(path), OPTIONS)
    face = Detection("face", 0, 0.9, (0.1, 0.2, 0.3, 0.4), keypoints=((0.15, 0.25, 0.9), (0.2, 0.25, 0.8)))
    sink.write(make_result(0, detections=(face,)), None)
    sink.write(make_result(1, segments=(Segment("sky", 2, 0.5),)), None)
    sink.write(make_result(2, keypoints=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))), None)
    sink.close()
    rows = list(csv.DictReader(path.read_text().splitlines()))
    columns = ("label", "class_id", "score", "x_min", "y_max", "area", "keypoints")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("face", "0", "0.9", "0.1", "0.4", "", "0.15 0.25 0.9;0.2 0.25 0.8"),
        ("sky", "2", "", "", "", "0.5", ""),
        ("keypoint", "0", "0.3", "0.1", "0.2", "", ""),
        ("keypoint", "1", "0.6", "0.4", "0.5", "", ""),
    ]


def test_csv_has_a_row_for_an_anomaly_and_for_each_value(tmp_path, make_result):
    path = tmp_path / "out.csv"
    result = make_result(classes=())
    anomaly = msgspec.structs.replace(result, anomaly=Anomaly(12.5, 10.0, True), classes=None)
    values = msgspec.structs.replace(result, values=(Value("load", 65.0, "%"), Value("wear", 2.0)), classes=None)
    sink = open_sink(str(path), OPTIONS)
    for each in (anomaly, values):
        sink.write(each, None)
    sink.close()
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["label"], float(row["score"])) for row in rows] == [("anomaly", 12.5), ("load", 65.0), ("wear", 2.0)]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.mp4"])
def test_an_unwritable_output_is_said_when_it_is_opened(tmp_path, name):
    with pytest.raises(OutputError, match=r"cannot write .*: No such file or directory"):
        open_sink(str(tmp_path / "absent" / name), OPTIONS)


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_a_full_disk_is_an_error_that_names_the_file(make_result, name, tmp_path):
    link = tmp_path / name
    link.symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left on device"):
        _write_one(str(link), make_result())


def _write_one(word, result):
    with closing(open_sink(word, OPTIONS)) as sink:
        sink.write(result, None)


def test_stdout_takes_lines_past_pythons_buffer_and_after_what_was_printed(capfd, make_result):
    print("before")
    with closing(open_sink("-", OPTIONS)) as sink:
        sink.write(make_result(0), None)
    assert capfd.readouterr().out == f"before\n{make_result(0).to_json().decode()}\n"


def test_a_reader_that_does_not_read_holds_up_the_sink_and_nobody_who_flushes_stdout(make_result, monkeypatch):
    reading, writing = os.pipe()
    with open(writing, "w") as pipe, open(reading, "rb"):  # noqa: PTH123 - descriptors
        monkeypatch.setattr("sys.stdout", pipe)
        sink = open_sink("-", OPTIONS)

        def fill():
            with suppress(OutputError):
                for seq in range(10_000):
                    sink.write(make_result(seq), None)

        writer = threading.Thread(target=fill, daemon=True)
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        flusher = threading.Thread(target=pipe.flush, daemon=True)
        flusher.start()
        flusher.join(5)
        assert not flusher.is_alive()
    writer.join(5)
    assert not writer.is_alive()
    sink.close()


def test_a_non_blocking_stdout_that_is_full_is_waited_for(make_result, monkeypatch):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(writing, "w") as pipe, open(reading, "rb") as reader:  # noqa: PTH123 - descriptors
        monkeypatch.setattr("sys.stdout", pipe)
        with closing(open_sink("-", OPTIONS)) as sink:
            writer = threading.Thread(target=lambda: [sink.write(make_result(seq), None) for seq in range(500)])
            writer.start()
            lines = [reader.readline() for _ in range(500)]
            writer.join(5)
    assert all(line.endswith(b"}\n") for line in lines)


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        more, picture = capture.read()
        if not more:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(picture)


def test_the_video_has_one_annotated_picture_per_result_at_the_source_rate(tmp_path, make_result, make_frame):
    path = tmp_path / "out.mp4"
    sink = open_sink(str(path), SinkOptions(fps=25))
    frame = make_frame(width=320, height=240)
    for seq in range(5):
        sink.write(make_result(seq), frame)
    sink.close()
    frames, fps = read_video(path)
    assert (len(frames), fps, frames[0].shape) == (5, 25, (240, 320, 3))
    # The box's left edge is drawn at a quarter of the width; the frame itself is left as it was.
    edge = frames[0][120, 78:83].astype(int)
    assert np.abs(edge - 90).max() > 40
    assert (frame.pixels == 90).all()


def test_a_frame_of_another_size_is_scaled_to_the_first(tmp_path, make_result, make_frame):
    path = tmp_path / "out.mp4"
    sink = open_sink(str(path), OPTIONS)
    sink.write(make_result(0), make_frame(width=65, height=49))
    sink.write(make_result(1), make_frame(width=640, height=480))
    sink.close()
    frames, _ = read_video(path)
    assert [picture.shape for picture in frames] == [(48, 64, 3)] * 2


@pytest.mark.parametrize("size", [(1, 1), (2, 50), (33, 17)])
@pytest.mark.parametrize("fps", [0.1, 7.4999, 23.976023976, 999.99])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_the_video_takes_every_size_and_rate(tmp_path, make_result, make_frame, size, fps, ending):
    # In a child: FFmpeg's rate control used to abort the process.
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            path = tmp_path / f"out.{ending}"
            with closing(open_sink(str(path), SinkOptions(fps=fps))) as sink:
                for seq in range(3):
                    sink.write(make_result(seq), make_frame(width=size[0], height=size[1]))
            frames, taken_fps = read_video(path)
            os._exit(0 if len(frames) == 3 and taken_fps == pytest.approx(fps, rel=0.001) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_video_without_a_frame_leaves_no_file(tmp_path):
    path = tmp_path / "out.mp4"
    sink = open_sink(str(path), OPTIONS)
    assert path.exists()
    sink.close()
    sink.close()
    assert not path.exists()


def test_a_colon_in_the_name_of_a_video_is_no_protocol(tmp_path, make_result, make_frame, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(open_sink("2026-11-22T10:00.mp4", OPTIONS)) as sink:
        sink.write(make_result(), make_frame())
    assert len(read_video(tmp_path / "2026-11-22T10:00.mp4")[0]) == 1


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_video_that_did_not_fit_on_the_disk_is_said(tmp_path, make_result, make_frame, ending):
    sink = open_sink(str(tmp_path / f"out.{ending}"), OPTIONS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        frame = make_frame(width=320, height=240)
        frame.pixels[:] = np.random.default_rng(0).integers(0, 256, frame.pixels.shape, dtype=np.uint8)
        for seq in range(40):
            sink.write(make_result(seq), frame)
        with pytest.raises(OutputError, match=r"out\.\w+ is damaged: not all of 40 pictures .* is the disk full"):
            sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_long_label_is_cut_in_the_picture(make_frame, make_result):
    drawn = []
    for length in (41, 5000):
        frame = make_frame(width=1600, height=300)
        detection = Detection(label="x" * length, class_id=1, score=0.5, box_xyxy=(0.0, 0.5, 0.1, 0.9))
        annotate(frame.pixels, make_result(detections=(detection,)))
        drawn.append(frame.pixels)
    assert (drawn[0] == drawn[1]).all()


def test_a_mask_is_drawn_where_it_is_and_nowhere_else(make_frame, make_result):
    frame = make_frame(width=320, height=240)
    frame.pixels[:] = 0
    # The lower right quarter.
    mask = RunLengths(4, 2, (6, 2))
    annotate(frame.pixels, make_result(segments=(Segment("cat", 1, 0.25, mask=mask),)))
    assert (frame.pixels[200:, 280:] == frame.pixels[239, 319]).all()
    assert frame.pixels[239, 319].any()
    assert not frame.pixels[60:100].any()
    assert not frame.pixels[200:, :120].any()


def test_a_mask_in_a_box_is_drawn_over_what_the_stage_was_shown(make_frame, make_result):
    frame = make_frame(width=320, height=240)
    frame.pixels[:] = 0
    # The lower right quarter of the lower right quarter.
    inner = Inner(
        "parts",
        ModelInfo("m", "1", "0" * 64),
        "fake",
        segments=(Segment("cat", 1, 0.0625, mask=RunLengths(4, 2, (6, 2))),),
        crop_xyxy=(0.5, 0.5, 1.0, 1.0),
    )
    box = Detection("cat", 1, 0.9, (0.55, 0.55, 0.6, 0.6), inner=(inner,))
    annotate(frame.pixels, make_result(detections=(box,)))
    assert (frame.pixels[225:, 300:] == frame.pixels[239, 319]).all()
    assert frame.pixels[239, 319].any()
    assert not frame.pixels[160:170, 280:].any()
    assert not frame.pixels[225:, :220].any()


def test_a_body_is_drawn_with_its_limbs_and_without_what_is_not_seen(make_frame, make_result):
    frame = make_frame(width=400, height=400)
    frame.pixels[:] = 0
    keypoints = [(0.9, 0.9, 0.0)] * 17
    keypoints[11], keypoints[13] = (0.5, 0.25, 0.8), (0.5, 0.75, 0.8)  # The left hip and knee.
    annotate(frame.pixels, make_result(keypoints=tuple(keypoints)))
    assert frame.pixels[110:290, 200].any(axis=1).all(), "the thigh"
    assert not frame.pixels[:, 300:].any()


def test_a_live_video_runs_at_the_speed_of_the_scene(tmp_path, make_result, make_frame):
    path = tmp_path / "out.avi"
    sink = open_sink(str(path), SinkOptions(fps=10, live=True))
    for seq, second in enumerate((0.0, 0.5, 1.0)):
        sink.write(make_result(seq), make_frame(seq, captured_ns=round(second * 1e9)))
    sink.close()
    frames, _ = read_video(path)
    assert len(frames) == 11


def test_a_long_silence_does_not_fill_the_disk(tmp_path, make_result, make_frame):
    path = tmp_path / "out.avi"
    sink = open_sink(str(path), SinkOptions(fps=10, live=True))
    sink.write(make_result(0), make_frame(0))
    sink.write(make_result(1), make_frame(1, captured_ns=3_600_000_000_000))
    sink.close()
    assert len(read_video(path)[0]) == 22


def test_memory_gives_results_to_whoever_iterates_and_waits_for_room(make_result):
    sink = MemorySink(capacity=2)
    writer = threading.Thread(target=lambda: [sink.write(make_result(seq), None) for seq in range(20)] and sink.close())
    writer.start()
    assert [result.seq for result in sink] == list(range(20))
    writer.join()


def test_closing_memory_lets_a_waiting_writer_go(make_result):
    sink = MemorySink(capacity=1)
    sink.write(make_result(0), None)
    writer = threading.Thread(target=sink.write, args=(make_result(1), None))
    writer.start()
    sink.close()
    writer.join(5)
    assert not writer.is_alive()
