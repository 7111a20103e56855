"""A detector's boxes shown to further models: what they find is what they find in pictures cut out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import jsonschema
import pytest
from sightings import SCHEMAS

import edgeinfer as package

MARGIN = 0.1


@pytest.fixture(scope="module")
def picture(test_data: Path) -> Path:
    return next(iter(sorted((test_data / "media").rglob("person.jpg"))))


def configuration(test_data: Path, picture: Path, *stages: str, more: str = "") -> str:
    return f"""
[[pipeline]]
model = "{test_data}/models/ssd_mobilenet_v1_coco.tflite"
source = "{picture}"
output = ["out.jsonl"]
device = "litert:cpu"
score_min = 0.4
{more}
""" + "".join(f"\n[[pipeline.stages]]\n{stage}\n" for stage in stages)


def run(edgeinfer, folder: Path, text: str):
    (folder / "c.toml").write_text(text)
    return edgeinfer("run", "--config", "c.toml", "--quiet", cwd=folder)


def test_each_box_is_looked_at_as_a_picture_of_its_own(edgeinfer, test_data, picture, tmp_path):
    classifier = test_data / "models/mobilenet_v1_0.5_160_quant.tflite"
    stage = f'name = "what"\nmodel = "{classifier}"\nscore_min = 0.5\ncrops_max = 2\nmargin = {MARGIN}'
    ran = run(edgeinfer, tmp_path, configuration(test_data, picture, stage))
    assert ran.code == 0, ran.err
    (result,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    seen = [each for each in result["detections"] if "inner" in each]
    assert 1 <= len(seen) <= 2
    assert seen == [each for each in result["detections"] if each["score"] >= 0.5][:2]
    assert result["timing_ms"]["stages"] > 0
    pixels = cv2.imread(str(picture))
    height, width = pixels.shape[:2]
    with package.load(classifier, device="litert:cpu") as model:
        for each in seen:
            x_min, y_min, x_max, y_max = each["box_xyxy"]
            more_x, more_y = MARGIN * (x_max - x_min), MARGIN * (y_max - y_min)
            left, top = max(int((x_min - more_x) * width), 0), max(int((y_min - more_y) * height), 0)
            right, bottom = -int(-(x_max + more_x) * width // 1), -int(-(y_max + more_y) * height // 1)
            expected = model(pixels[top : min(bottom, height), left : min(right, width)]).classes
            (inner,) = each["inner"]
            assert (inner["stage"], inner["device"]) == ("what", "litert:cpu")
            assert [found["class_id"] for found in inner["classes"]] == [found.class_id for found in expected]
            assert [found["score"] for found in inner["classes"]] == [found.score for found in expected]


def test_what_is_segmented_in_a_box_is_told_of_the_whole_picture(edgeinfer, test_data, picture, tmp_path):
    segmenter = test_data / "models/deeplabv3_dm05_pascal_quant.tflite"
    labels = test_data / "labels/pascal_voc_segmentation.txt"
    stage = f'name = "parts"\nmodel = "{segmenter}"\nlabels = "{labels}"\nmasks = true\nmargin = {MARGIN}'
    ran = run(edgeinfer, tmp_path, configuration(test_data, picture, stage))
    assert ran.code == 0, ran.err
    (result,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    jsonschema.validate(result, json.loads((SCHEMAS / "result.json").read_text()))
    pixels = cv2.imread(str(picture))
    height, width = pixels.shape[:2]
    inners = [inner for each in result["detections"] for inner in each["inner"]]
    assert {segment["label"] for inner in inners for segment in inner["segments"]} >= {"person", "horse"}
    with package.load(segmenter, labels=labels, masks=True) as model:
        for inner in inners:
            left, top, right, bottom = (
                round(share * size) for share, size in zip(inner["crop_xyxy"], (width, height) * 2, strict=True)
            )
            expected = model(pixels[top:bottom, left:right]).segments
            share = (right - left) * (bottom - top) / (width * height)
            assert [each["area"] for each in inner["segments"]] == pytest.approx(
                [each.area * share for each in expected], abs=2e-6
            )
            assert [each["label"] for each in inner["segments"]] == [each.label for each in expected]
            assert [each["mask"]["counts"] for each in inner["segments"]] == [
                list(each.mask.counts) for each in expected
            ]


def test_what_a_stage_puts_in_no_box_cannot_be_hidden(edgeinfer, test_data, picture, tmp_path):
    stage = (
        f'name = "parts"\nmodel = "{test_data}/models/deeplabv3_dm05_pascal_quant.tflite"\n'
        f'labels = "{test_data}/labels/pascal_voc_segmentation.txt"'
    )
    ran = run(edgeinfer, tmp_path, configuration(test_data, picture, stage, more='blur = ["tvmonitor"]'))
    assert ran.code == 6
    assert "blur: unknown class 'tvmonitor'" in ran.err


def test_a_face_lies_where_it_is_in_the_whole_picture_and_can_be_hidden(edgeinfer, test_data, picture, tmp_path):
    picture = picture.with_name("face.jpg")
    (faces,) = (test_data / "models").rglob("yunet_n_dynamic_shape.onnx")
    stage = f'name = "face"\nmodel = "{faces}"\nclasses = ["person"]'
    text = configuration(test_data, picture, stage, more='blur = ["face"]').replace(
        '"out.jsonl"', '"out.jsonl", "out.mp4"'
    )
    ran = run(edgeinfer, tmp_path, text)
    assert ran.code == 0, ran.err
    (result,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    people = [each for each in result["detections"] if each.get("inner")]
    boxes = [found["box_xyxy"] for each in people for inner in each["inner"] for found in inner["detections"]]
    assert boxes
    with package.load(faces) as model:
        known = [each.box_xyxy for each in model(cv2.imread(str(picture))).detections]

    def middle(box):
        return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2

    for x, y in map(middle, known[:2]):
        assert any(abs(x - its_x) < 0.04 and abs(y - its_y) < 0.04 for its_x, its_y in map(middle, boxes))


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ('name = "a"\nmodel = "MODEL"\nclasses = ["persn"]', "stages[0].classes"),
        ('name = "a"\nmodel = "MODEL"\n[[pipeline.stages]]\nname = "a"\nmodel = "MODEL"', "two stages are named 'a'"),
        ('name = "a"\nmodel = "WINDOWS"', "takes samples"),
    ],
)
def test_what_cannot_be_a_stage_is_said_at_the_start(edgeinfer, test_data, picture, tmp_path, stage, says):
    models = {"MODEL": "mobilenet_v1_0.5_160_quant.tflite", "WINDOWS": "yamnet_with_metadata.tflite"}
    for word, name in models.items():
        stage = stage.replace(word, str(test_data / "models" / name))
    ran = run(edgeinfer, tmp_path, configuration(test_data, picture, stage))
    assert ran.code == 6
    assert says in ran.err
