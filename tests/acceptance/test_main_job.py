"""The main job on real models and media, typed as a user types it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import cv2
import pytest

ULID_CHARACTERS = set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")


@pytest.fixture(scope="module")
def person_video(test_data):
    return test_data / "media/video/one-by-one-person-detection.mp4"


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_people_are_found_in_a_video_and_every_frame_has_its_line(edgeinfer, test_data, person_video, tmp_path):
    model = test_data / "models/ssd_mobilenet_v1_coco.tflite"
    ran = edgeinfer(
        "run", "--model", model, "--source", person_video, "--frames", 400, "--score-min", 0.4, "--output", "out.jsonl"
    )
    assert ran.code == 0, ran.err
    assert ran.out == ""
    results = read_lines(tmp_path / "out.jsonl")
    assert [result["seq"] for result in results] == list(range(400))
    # Four other stacks found 730 to 733 in these frames.
    assert 725 <= sum(len(result["detections"]) for result in results) <= 738
    first = results[0]
    assert first["schema"] == "edgeinfer.result/1"
    assert first["device"] == "litert:cpu"
    assert first["source"] == {"uri": str(person_video), "width": 768, "height": 432}
    assert (len(first["id"]), set(first["id"]) <= ULID_CHARACTERS) == (26, True)
    assert len(first["model"]["sha256"]) == 64
    positions = [result["position_s"] for result in results]
    assert positions == sorted(positions)
    everything = [detection for result in results for detection in result["detections"]]
    assert all(0 <= edge <= 1 for detection in everything for edge in detection["box_xyxy"])
    assert all(box["box_xyxy"][0] < box["box_xyxy"][2] for box in everything)
    # A screen hangs on the wall throughout, and people walk by in most of the frames.
    assert sum(detection["label"] == "tv" for detection in everything) >= 390
    assert sum(detection["label"] == "person" for detection in everything) >= 300


def test_the_twin_without_metadata_gives_the_same_with_labels(edgeinfer, test_data, person_video):
    def detections(*words):
        ran = edgeinfer("run", "--source", person_video, "--frames", 60, "--score-min", 0.4, *words)
        assert ran.code == 0, ran.err
        return [result["detections"] for result in ran.results]

    labels = test_data / "labels/coco.txt"
    with_metadata = detections("--model", test_data / "models/ssd_mobilenet_v1_coco.tflite")
    without = detections("--model", test_data / "models/ssd_mobilenet_v1_coco_no_metadata.tflite", "--labels", labels)
    assert with_metadata == without
    assert any(with_metadata)


def test_a_model_without_labels_says_so_and_gives_numbers(edgeinfer, test_data, person_video):
    model = test_data / "models/ssd_mobilenet_v1_coco_no_metadata.tflite"
    ran = edgeinfer("run", "--model", model, "--source", person_video, "--frames", 60, "--score-min", 0.4)
    assert ran.code == 0
    assert "has no labels" in ran.err
    assert "--labels" in ran.err
    found = [detection for result in ran.results for detection in result["detections"]]
    assert found
    assert all(detection["label"] == str(detection["class_id"]) for detection in found)


def test_a_picture_is_classified(edgeinfer, test_data):
    model = test_data / "models/mobilenet_v1_0.5_160_quant.tflite"
    ran = edgeinfer("run", "--model", model, "--source", test_data / "media/image/cat.bmp")
    assert ran.code == 0, ran.err
    (result,) = ran.results
    best = result["classes"][0]
    assert (best["class_id"], best["score"]) == (286, pytest.approx(0.68, abs=0.02))
    assert best["label"] == "Egyptian cat"
    assert "position_s" not in result


def test_the_same_detector_in_onnx_float16_and_dynamic_range_agrees(edgeinfer, test_data):
    picture = test_data / "media/image/pets.jpg"
    labels = test_data / "labels/coco80.txt"
    seen = []
    for name in ("yolox_nano.onnx", "yolox_nano_float16.tflite", "yolox_nano_dynamic_range.tflite"):
        ran = edgeinfer(
            "run", "--model", test_data / "models" / name, "--labels", labels, "--source", picture, "--score-min", 0.5
        )
        assert ran.code == 0, ran.err
        (result,) = ran.results
        seen.append(sorted(detection["label"] for detection in result["detections"]))
    assert seen[0]
    assert seen[0] == seen[1] == seen[2]


def test_all_outputs_at_once(edgeinfer, test_data, person_video, tmp_path):
    outputs = [word for name in ("-", "a.jsonl", "a.csv", "a.mp4") for word in ("--output", name)]
    model = test_data / "models/ssd_mobilenet_v1_coco.tflite"
    ran = edgeinfer("run", "--model", model, "--source", person_video, "--frames", 40, "--score-min", 0.4, *outputs)
    assert ran.code == 0, ran.err
    assert len(ran.results) == 40
    assert read_lines(tmp_path / "a.jsonl") == ran.results
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(result["detections"]) for result in ran.results)
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 40
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (768, 432)
    video.release()


def test_two_pipelines_from_one_configuration(edgeinfer, test_data, person_video, tmp_path):
    config = tmp_path / "two.toml"
    config.write_text(
        f"""
        node = "pi-7"
        [[pipeline]]
        name = "people"
        model = "{test_data}/models/ssd_mobilenet_v1_coco.tflite"
        source = "{person_video}"
        frames = 30
        output = ["people.jsonl"]
        [[pipeline]]
        name = "cat"
        model = "{test_data}/models/mobilenet_v1_0.5_160_quant.tflite"
        source = "{test_data}/media/image/cat.bmp"
        output = ["cat.jsonl"]
        """
    )
    ran = edgeinfer("run", "--config", config)
    assert ran.code == 0, ran.err
    people, cat = read_lines(tmp_path / "people.jsonl"), read_lines(tmp_path / "cat.jsonl")
    assert (len(people), len(cat)) == (30, 1)
    assert {(result["node"], result["pipeline"]) for result in people + cat} == {("pi-7", "people"), ("pi-7", "cat")}


def test_the_bundled_detector_sees_the_cells_of_the_synthetic_smear(edgeinfer):
    from edgeinfer.sources.smear import BloodSmear

    ran = edgeinfer("run", "--model", "blood-cells", "--source", "synthetic://blood-smear?frames=20&fps=2&seed=3")
    assert ran.code == 0, ran.err
    smear = BloodSmear(640, 480, seed=3)
    drawn = found = 0
    for result in ran.results:
        boxes = [(box["label"], box["box_xyxy"]) for box in result["detections"]]
        for cell in smear.cells_at(result["position_s"]):
            drawn += 1
            found += any(label == cell.label and _overlap(box, cell.box_xyxy) > 0.5 for label, box in boxes)
    assert found > 0.8 * drawn, (found, drawn)


def _overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_inspect_shows_what_is_known_and_from_where(edgeinfer, test_data):
    ran = edgeinfer("inspect", test_data / "models/ssd_mobilenet_v1_coco.tflite", "--json")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert (facts["task"], facts["decoder"]) == ("detect", "ssd")
    assert (facts["image"]["width"], facts["image"]["height"], facts["image"]["colour"]) == (300, 300, "rgb")
    assert facts["ops"]["TFLite_Detection_PostProcess"] == 1
    assert facts["labels"][0] == "person"
    assert facts["provenance"]["labels"] == "file metadata"
    text = edgeinfer("inspect", test_data / "models/ssd_mobilenet_v1_coco.tflite")
    assert text.code == 0
    assert "TFLite_Detection_PostProcess" in text.out


def test_inspect_of_an_unclear_model_shows_the_file_and_the_question(edgeinfer, test_data):
    ran = edgeinfer("inspect", test_data / "models/conv_fc_mnist.tflite", "--json")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert "--mean" in facts["unclear"]
    assert facts["inputs"][0]["tensor"].startswith("float32[1,28,28,1]")


CALLER = """
import sys, threading
from edgeinfer.cli import main
threading.Thread(target=threading.Event().wait, daemon=True).start()
code = main(sys.argv[1:])
print("back with", code)
"""


def test_who_calls_it_from_a_program_with_threads_of_its_own_gets_an_answer(environment, tmp_path):
    words = ["run", "--model", "blood-cells", "--source", "synthetic://noise?frames=2", "--output", "out.jsonl"]
    done = subprocess.run(
        [sys.executable, "-c", CALLER, *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.stdout == "back with 0\n", done.stderr
