"""Each bad input is one clear line on stderr and the documented exit code; what was produced before is kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from tiny_models import onnx_model

SMEAR = "synthetic://blood-smear?frames=5"


def assert_one_line(ran, code, *said):
    assert ran.code == code, ran.err
    assert len(ran.errors) == 1, ran.err
    assert "Traceback" not in ran.err
    for text in said:
        assert text in ran.errors[0]


@pytest.fixture
def files(tmp_path):
    """Files that are not what their names say."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.tflite").touch()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.tflite").write_text("this is no model\n" * 50)
    (tmp_path / "text.onnx").write_text("this is no model\n" * 50)
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    (tmp_path / "text.jpg").write_text("this is no picture\n" * 50)
    (tmp_path / "short.txt").write_text("cat\ndog\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("run", 2, "--model is missing"),
        ("run --model blood-cells", 2, "--source is missing"),
        ("rum", 2, "did you mean 'run'"),
        ("run --modle x", 2, "did you mean --model"),
        (f"run --model blood-cells --source {SMEAR} --score-min 2", 2, "--score-min: must be at most 1"),
        (f"run --model blood-cells --source {SMEAR} --frames 0", 2, "--frames: must be at least 1"),
        (f"run --model blood-cells --source {SMEAR} --frames many", 2, "--frames"),
        (f"run --model blood-cells --source {SMEAR} --device litert:cqu", 4, "cpu"),
        (f"run --model blood-cells --source {SMEAR} --device npu", 4, "npu"),
        (f"run --model absent.tflite --source {SMEAR}", 3, "no such model: absent.tflite"),
        (f"run --model blod-cells --source {SMEAR}", 3, "did you mean 'blood-cells'"),
        (f"run --model folder --source {SMEAR}", 3, "without a model.toml"),
        (f"run --model empty.tflite --source {SMEAR}", 3, "empty"),
        (f"run --model text.tflite --source {SMEAR}", 3, "text.tflite"),
        (f"run --model text.onnx --source {SMEAR}", 3, "text.onnx"),
        (f"run --model text.mp4 --source {SMEAR}", 3, "neither a .tflite nor a .onnx"),
        ("run --model blood-cells --source absent.mp4", 5, "absent.mp4"),
        ("run --model blood-cells --source folder", 5, "folder"),
        ("run --model blood-cells --source empty.mp4", 5, "empty.mp4"),
        ("run --model blood-cells --source text.mp4", 5, "text.mp4"),
        ("run --model blood-cells --source text.jpg", 5, "text.jpg"),
        ("run --model blood-cells --source /dev/video97", 5, "/dev/video97"),
        ("run --model blood-cells --source sinthetic://x", 5, "synthetic"),
        ("run --model blood-cells --source synthetic://blod-smear", 5, "blood-smear"),
        (f"run --model blood-cells --source {SMEAR} --labels short.txt", 3, "2 labels for the 3 classes"),
        (f"run --model blood-cells --source {SMEAR} --labels absent.txt", 3, "absent.txt"),
        (f"run --model blood-cells --source {SMEAR} --output absent/out.jsonl", 2, "cannot write"),
        (f"run --model blood-cells --source {SMEAR} --output folder/", 2, "folder/"),
        (f"run --model blood-cells --source {SMEAR} --output out.jsnl", 2, "did you mean '.jsonl'"),
        ("run --config absent.toml", 6, "absent.toml"),
        ("inspect absent.onnx", 3, "no such model"),
    ],
)
def test_what_was_typed_wrong_is_one_line(edgeinfer, files, words, code, said):
    assert_one_line(edgeinfer(*words.split()), code, said)


def test_a_source_that_never_delivers_is_an_error_and_not_a_hang(edgeinfer):
    ran = edgeinfer("run", "--model", "blood-cells", "--source", "synthetic://blood-smear?silent=1")
    assert_one_line(ran, 5, "no frame")


def test_a_corrupt_video_keeps_the_results_that_there_were(edgeinfer, test_data, tmp_path):
    whole = test_data / "media/video/bottle-detection.mp4"
    content = bytearray(whole.read_bytes())
    # The second half of the pictures, up to the index at the end, becomes noise.
    half = len(content) // 2
    noise = np.random.default_rng(0).integers(0, 256, len(content) // 3, dtype=np.uint8).tobytes()
    content[half : half + len(noise)] = noise
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    model = test_data / "models/mobilenet_v1_0.25_128_quant.tflite"
    ran = edgeinfer("run", "--model", model, "--source", damaged)
    assert ran.code in (0, 5), ran.err
    assert "Traceback" not in ran.err
    assert len(ran.results) > 50
    truncated = tmp_path / "truncated.avi"
    _write_video(truncated, frames=60)
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    ran = edgeinfer("run", "--model", model, "--source", truncated)
    assert_one_line(ran, 5, "truncated.avi")
    assert 20 <= len(ran.results) <= 40
    assert [result["seq"] for result in ran.results] == list(range(len(ran.results)))


def _write_video(path, *, frames):
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 30, (320, 240))
    picture = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    for _ in range(frames):
        writer.write(picture)
    writer.release()


def test_a_damaged_image_in_a_folder_is_skipped_counted_and_named(edgeinfer, test_data, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(test_data / "media/image/pets.jpg", folder / "a.jpg")
    (folder / "b.jpg").touch()
    shutil.copy(test_data / "media/image/dog.jpg", folder / "c.jpg")
    model = test_data / "models/mobilenet_v1_0.25_128_quant.tflite"
    ran = edgeinfer("run", "--model", model, "--source", folder)
    assert ran.code == 0, ran.err
    assert [result["source"]["uri"] for result in ran.results] == [str(folder / "a.jpg"), str(folder / "c.jpg")]
    assert "skipped 1" in ran.err
    assert "b.jpg" in ran.err


@pytest.mark.parametrize("name", ["invoke_error.tflite", "person_detect_bad_quantized_dimension.tflite"])
def test_a_faulty_model_is_a_bad_model(edgeinfer, test_data, name):
    words = ("--task", "classify", "--colour", "gray", "--mean", 0, "--std", 255, "--fit", "stretch")
    ran = edgeinfer("run", "--model", test_data / "models/faulty" / name, "--source", SMEAR, *words)
    assert_one_line(ran, 3, name)


def test_a_label_file_too_short_for_a_detector_is_said(edgeinfer, test_data, files):
    model = test_data / "models/ssd_mobilenet_v1_coco_no_metadata.tflite"
    ran = edgeinfer("run", "--model", model, "--source", SMEAR, "--labels", "short.txt")
    assert_one_line(ran, 3, "2 labels for the 90 classes")


def test_an_edge_tpu_model_without_its_delegate_is_a_missing_device(edgeinfer, test_data):
    model = test_data / "models/edgetpu/mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    assert_one_line(edgeinfer("run", "--model", model, "--source", SMEAR), 4, "Edge TPU")


def test_a_disk_that_is_full_is_said_and_the_other_output_is_whole(edgeinfer, tmp_path):
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    ran = edgeinfer("run", "--model", "blood-cells", "--source", SMEAR, "-o", "full.jsonl", "-o", "whole.jsonl")
    assert_one_line(ran, 2, "No space left on device", "5 results lost")
    assert len((tmp_path / "whole.jsonl").read_text().splitlines()) == 5


def test_a_reader_that_leaves_ends_the_run_quietly(environment, tmp_path):
    command = f"{sys.executable} -m edgeinfer run --model blood-cells --source synthetic://blood-smear | head -n 2"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert "error" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("source", ["synthetic://blood-smear", "synthetic://blood-smear?stall_after=5"])
def test_a_signal_ends_the_run_with_every_finished_result_written(environment, tmp_path, number, source):
    out = tmp_path / "out.jsonl"
    words = ["run", "--model", "blood-cells", "--source", source, "--output", "-", "--output", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeinfer", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    first = [process.stdout.readline() for _ in range(3)]
    process.send_signal(number)
    rest, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    lines = first + rest.splitlines(keepends=True)
    assert all(line.endswith("}\n") for line in lines)
    assert out.read_text() == "".join(lines)


def test_a_reader_that_does_not_read_does_not_keep_a_stopped_run(environment, tmp_path):
    words = [
        "run",
        "--model",
        "blood-cells",
        "--source",
        "synthetic://blood-smear?frames=99999",
        "-o",
        "-",
        "-o",
        "a.csv",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeinfer", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    process.stdout.readline()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert "output - does not take results" in process.stderr.read()
    process.stdout.close()
    process.stderr.close()


def test_a_pipeline_that_fails_is_named_and_the_other_runs_on(edgeinfer, tmp_path):
    pipeline = '[[pipeline]]\nname = "{0}"\nmodel = "blood-cells"\nsource = "{1}"\n{2}\noutput = ["{0}.jsonl"]\n'
    (tmp_path / "two.toml").write_text(
        pipeline.format("good", SMEAR, "") + pipeline.format("bad", SMEAR, 'device = "fake:fail_at=3"')
    )
    assert_one_line(edgeinfer("run", "--config", "two.toml"), 4, "pipeline bad: fake failed at run 3")
    assert len((tmp_path / "good.jsonl").read_text().splitlines()) == 5
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 2


def test_the_source_is_not_overwritten(edgeinfer, tmp_path):
    _write_video(tmp_path / "a.mp4", frames=3)
    before = (tmp_path / "a.mp4").read_bytes()
    ran = edgeinfer("run", "--model", "blood-cells", "--source", "a.mp4", "-o", "./a.mp4")
    assert_one_line(ran, 2, "'./a.mp4' is a source, and would be overwritten")
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_a_bug_is_exit_70_and_debug_shows_where(edgeinfer, environment, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import edgeinfer.cli as cli\ncli.COMMANDS['inspect'] = None\n")
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    ran = edgeinfer("inspect", "x")
    assert_one_line(ran, 70, "a bug in edgeinfer")
    assert "Traceback" in edgeinfer("inspect", "x", "--debug").err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (f"run --model blood-cells --source {SMEAR} --labels pipe", 3, "not a regular file"),
        ("run --config pipe", 6, "not a regular file"),
        (f"run --model blood-cells --source {SMEAR} --output pipe.jsonl", 2, "cannot write pipe.jsonl"),
        (f"run --model blood-cells --source {SMEAR} --output pipe.mp4", 2, "needs a regular file"),
    ],
)
def test_a_pipe_that_nobody_reads_or_writes_is_no_hang(edgeinfer, tmp_path, words, code, said):
    for name in ("pipe", "pipe.jsonl", "pipe.mp4"):
        os.mkfifo(tmp_path / name)
    assert_one_line(edgeinfer(*words.split(), timeout_s=30), code, said)


def test_a_video_whose_name_is_not_utf8_is_refused(edgeinfer):
    ran = edgeinfer("run", "--model", "blood-cells", "--source", SMEAR, "--output", "\udcff.mp4")
    assert_one_line(ran, 2, "not UTF-8")


def test_fake_answers_for_any_model(edgeinfer, test_data):
    model = test_data / "models/ssd_mobilenet_v1_coco.tflite"
    ran = edgeinfer("run", "--model", model, "--source", SMEAR, "--device", "fake")
    assert ran.code == 0, ran.err
    assert [result["detections"] for result in ran.results] == [[]] * 5


def test_a_decoder_of_another_task_is_refused_and_of_another_layout_is_warned_of(edgeinfer, test_data):
    cat = test_data / "media/image/cat.bmp"
    model = test_data / "models/mobilenet_v1_0.25_128_quant.tflite"
    ran = edgeinfer("run", "--model", model, "--source", cat, "--decoder", "yolov8")
    assert_one_line(ran, 2, "unknown decoder of classify 'yolov8'")
    ran = edgeinfer("run", "--model", test_data / "models/yolox_nano.onnx", "--source", cat, "--decoder", "yolov8")
    assert "looks like yolox" in ran.err


def test_outputs_that_no_decoder_fits_are_shown(edgeinfer, tmp_path):
    model = tmp_path / "repaint.onnx"
    model.write_bytes(onnx_model(shape=(1, 3, 64, 64)))
    ran = edgeinfer("run", "--model", model, "--source", "synthetic://noise?frames=1")
    assert_one_line(ran, 3, "knows no decoder for: float32[1,3,64,64]", "--task anomaly or audio or classify or detect")


def test_inspect_shows_a_model_that_cannot_be_run(edgeinfer, tmp_path):
    model = tmp_path / "numbers.onnx"
    model.write_bytes(onnx_model(shape=(1, 100)))
    ran = edgeinfer("inspect", model)
    assert ran.code == 0, ran.err
    assert "float32[1,100]" in ran.out
    assert "takes no image" in ran.out


def test_a_frame_that_takes_too_long_does_not_keep_an_interrupted_run(environment, tmp_path):
    words = ["run", "--model", "blood-cells", "--device", "fake:latency_ms=60000", "--source", "synthetic://noise"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeinfer", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert "runs on fake" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err


def test_a_bug_in_a_pipeline_is_one_line_and_debug_shows_where(edgeinfer, environment, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import edgeinfer.tasks.detect.yolov8 as y\ny.Yolov8.decode = lambda self, raw, where: 1 / 0\n"
    )
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    words = ("run", "--model", "blood-cells", "--source", SMEAR)
    assert_one_line(edgeinfer(*words), 70, "ZeroDivisionError", "--debug shows where")
    assert "in <lambda>" in edgeinfer("--debug", *words).err


def test_a_folder_that_is_gone_is_said(edgeinfer, environment, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd {gone} && rmdir {gone} && {sys.executable} -m edgeinfer run --model nope --source nope"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, "the current folder is gone" in done.stderr) == (2, True), done.stderr
