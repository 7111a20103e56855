import csv
import threading
from contextlib import closing

import cv2
import numpy as np
import pytest

from edgeinfer.errors import OutputError
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
        ("memory:", "memory"),
    ],
)
def test_the_ending_says_the_format(word, name):
    assert sink_name(word) == name


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("out.jsnl", "did you mean '.jsonl'"),
        ("out", "end it in .csv, .jsonl"),
        ("mqtt://host/", "no driver for the uplink"),
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
