"""Heads built from known boxes, in every layout, must give those boxes back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.bundle import recognise
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import WHOLE, Placement
from edgeinfer.tasks.detect import DECODERS, make_detect
from edgeinfer.tensor import Quantization, TensorSpec, quantize

NAMES = ("rbc", "wbc", "platelet")
SIZE = 64
STRIDES = (8, 16, 32)
CELLS = sum((SIZE // stride) ** 2 for stride in STRIDES)
# cell, class, score, and centre x, y, width, height in 0..1 of the input.
OBJECTS = (
    (3, 0, 0.90, (0.25, 0.50, 0.25, 0.30)),
    (40, 2, 0.80, (0.70, 0.30, 0.20, 0.40)),
    (81, 1, 0.60, (0.50, 0.75, 0.50, 0.25)),
)


def grid():
    """x, y, stride of each cell, by plain loops."""
    return [(x, y, s) for s in STRIDES for y in range(SIZE // s) for x in range(SIZE // s)]


def blank(cells, features):
    table = np.zeros((cells, features))
    table[:, :4] = 0.01
    return table


def yolov8_table(units, objects=OBJECTS):
    table = blank(CELLS, 4 + len(NAMES))
    for cell, class_id, score, box in objects:
        table[cell, :4] = np.array(box) * units
        table[cell, 4 + class_id] = score
    return table


def yolov5_table(units):
    table = blank(3 * CELLS, 5 + len(NAMES))
    for cell, class_id, score, box in OBJECTS:
        table[cell, :4] = np.array(box) * units
        table[cell, 4] = 0.95
        table[cell, 5 + class_id] = score / 0.95
    return table


def yolox_table(_units):
    table = blank(CELLS, 5 + len(NAMES))
    for cell, class_id, score, (x, y, width, height) in OBJECTS:
        left, top, stride = grid()[cell]
        table[cell, :4] = [
            x * SIZE / stride - left,
            y * SIZE / stride - top,
            math.log(width * SIZE / stride),
            math.log(height * SIZE / stride),
        ]
        table[cell, 4] = 0.95
        table[cell, 5 + class_id] = score / 0.95
    return table


TABLES = {"yolov8": yolov8_table, "yolov5": yolov5_table, "yolox": yolox_table}


def stored(table, dtype, *, turned):
    """One output holding the table: as (cells, features), or turned round."""
    # In memory as a runtime gives it: a transposed view would hide which way round it lies.
    array = np.ascontiguousarray((table.T if turned else table)[None])
    quantization = None
    if np.dtype(dtype).kind in "iu":
        ends = np.iinfo(dtype)
        low, high = min(table.min(), 0.0), table.max()
        scale = (high - low) / (int(ends.max) - int(ends.min))
        quantization = Quantization((scale,), (round(ends.min - low / scale),))
    spec = TensorSpec("head", array.shape, np.dtype(dtype), quantization)
    return spec, quantize(array, spec)


def check(detections, tolerance, objects=OBJECTS):
    found = [(each.label, each.class_id) for each in detections]
    assert found == [(NAMES[class_id], class_id) for _, class_id, _, _ in objects]
    for each, (_, _, score, (x, y, width, height)) in zip(detections, objects, strict=True):
        assert each.score == pytest.approx(score, abs=tolerance)
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        assert each.box_xyxy == pytest.approx(corners, abs=tolerance * 2)


@pytest.mark.parametrize("turned", [False, True], ids=["cells first", "features first"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 2e-3), (np.int16, 2e-3)])
@pytest.mark.parametrize("units", ["pixels", "normalised"])
@pytest.mark.parametrize("decoder", sorted(TABLES))
def test_known_boxes_come_back(make_bundle, decoder, units, dtype, tolerance, turned):
    table = TABLES[decoder](SIZE if units == "pixels" else 1.0)
    spec, raw = stored(table, dtype, turned=turned)
    task = make_detect(make_bundle([spec], decoder, labels=NAMES, box_units=units), (spec,))
    check(task.decode((raw,), WHOLE).detections, tolerance)


@pytest.mark.parametrize("turned", [False, True], ids=["cells first", "features first"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("decoder", ["yolov8", "yolov5"])
def test_known_boxes_come_back_from_eight_bits(make_bundle, decoder, dtype, turned):
    spec, raw = stored(TABLES[decoder](1.0), dtype, turned=turned)
    task = make_detect(make_bundle([spec], decoder, labels=NAMES, box_units="normalised"), (spec,))
    check(task.decode((raw,), WHOLE).detections, 0.006)


@pytest.mark.parametrize("boxes_first", [True, False])
@pytest.mark.parametrize("turned", [False, True], ids=["cells first", "features first"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.int8, 0.006)])
def test_boxes_and_scores_in_two_outputs(make_bundle, dtype, tolerance, turned, boxes_first):
    table = yolov8_table(1.0)
    boxes = stored(table[:, :4], dtype, turned=turned)
    scores = stored(table[:, 4:], dtype, turned=turned)
    specs, raw = zip(*((boxes, scores) if boxes_first else (scores, boxes)), strict=True)
    task = make_detect(make_bundle(specs, labels=NAMES, box_units="normalised"), specs)
    check(task.decode(raw, WHOLE).detections, tolerance)


def test_one_class(make_bundle):
    table = blank(CELLS, 5)
    table[7] = [0.5, 0.5, 0.2, 0.2, 0.9]
    for turned in (False, True):
        spec, raw = stored(table, np.float32, turned=turned)
        task = make_detect(make_bundle([spec], labels=("face",), box_units="normalised"), (spec,))
        (face,) = task.decode((raw,), WHOLE).detections
        assert (face.label, face.box_xyxy) == ("face", pytest.approx((0.4, 0.4, 0.6, 0.6), abs=1e-6))


@pytest.mark.parametrize("turned", [False, True], ids=["cells first", "features first"])
def test_the_best_class_of_a_cell_names_it_and_the_lower_number_wins_a_tie(make_bundle, turned):
    table = blank(CELLS, 7)
    table[2] = [0.2, 0.2, 0.1, 0.1, 0.5, 0.9, 0.6]
    table[9] = [0.7, 0.7, 0.1, 0.1, 0.2, 0.8, 0.8]
    spec, raw = stored(table, np.float32, turned=turned)
    # An overlap of 1 is allowed: it is not the suppression that leaves one result of each cell.
    task = make_detect(make_bundle([spec], iou_max=1.0, box_units="normalised"), (spec,))
    found = [(each.label, each.score) for each in task.decode((raw,), WHOLE).detections]
    assert found == [("1", 0.9), ("1", 0.8)]


def test_a_letterboxed_box_is_that_of_the_source(make_bundle):
    # A picture of 2:1 lies in the middle half of a square input.
    spec, raw = stored(yolov8_table(1.0), np.float32, turned=True)
    task = make_detect(make_bundle([spec], labels=NAMES, box_units="normalised"), (spec,))
    first = task.decode((raw,), Placement(0.0, 0.25, 1.0, 0.5)).detections[0]
    assert first.box_xyxy == pytest.approx((0.125, 0.2, 0.375, 0.8), abs=1e-6)


def test_doubles_go_per_class_and_iou_max_counts(make_bundle):
    table = blank(CELLS, 7)
    table[0] = [0.5, 0.5, 0.4, 0.4, 0.9, 0, 0]
    table[1] = [0.52, 0.5, 0.4, 0.4, 0.8, 0, 0]  # overlaps the first by 0.905
    table[2] = [0.52, 0.5, 0.4, 0.4, 0, 0.7, 0]
    spec, raw = stored(table, np.float32, turned=True)

    def scores(iou_max):
        task = make_detect(make_bundle([spec], iou_max=iou_max, box_units="normalised"), (spec,))
        return [each.score for each in task.decode((raw,), WHOLE).detections]

    assert scores(0.5) == [0.9, 0.7]
    assert scores(0.95) == [0.9, 0.8, 0.7]


@pytest.mark.parametrize("decoder", sorted(TABLES))
def test_what_is_no_box_is_left_out(make_bundle, decoder):
    for worst in (np.nan, np.inf, -np.inf, 1e38):
        table = TABLES[decoder](1.0)
        table[40, 2] = worst
        spec = TensorSpec("head", (1, *table.shape), np.dtype(np.float32))
        task = make_detect(make_bundle([spec], decoder, labels=NAMES, box_units="normalised"), (spec,))
        with np.errstate(over="ignore"):
            raw = table[None].astype(np.float32)
        labels = [each.label for each in task.decode((raw,), WHOLE).detections]
        if worst == 1e38 and decoder != "yolox":
            assert labels == ["rbc", "platelet", "wbc"]  # Absurd, but a box: clipped to the whole width.
        else:
            assert labels == ["rbc", "wbc"]


def test_boxes_outside_of_the_picture_and_nan_scores_are_left_out(make_bundle):
    table = yolov8_table(1.0)
    table[40, :4] = [1.5, 0.5, 0.2, 0.2]
    table[81, 5] = np.nan
    spec, raw = stored(np.nan_to_num(table), np.float32, turned=True)
    raw[0, 5, 81] = np.nan
    task = make_detect(make_bundle([spec], labels=NAMES, box_units="normalised"), (spec,))
    assert [each.label for each in task.decode((raw,), WHOLE).detections] == ["rbc"]


def test_boxes_in_the_padding_are_left_out(make_bundle):
    spec, raw = stored(yolov8_table(1.0), np.float32, turned=True)
    task = make_detect(make_bundle([spec], labels=NAMES, box_units="normalised"), (spec,))
    found = task.decode((raw,), Placement(0.8, 0.0, 0.2, 1.0)).detections
    # Only the platelet box ends at 0.8; the others end left of the picture.
    assert found == ()


def test_results_are_bounded_and_best_first(make_bundle):
    rng = np.random.default_rng(1)
    table = blank(CELLS, 7)
    table[:, :2] = rng.random((CELLS, 2)) * 0.8 + 0.1
    table[:, 2:4] = 0.001
    table[:, 4] = rng.random(CELLS)
    spec, raw = stored(table, np.float32, turned=True)
    task = make_detect(make_bundle([spec], score_min=0.0, max_results=10, box_units="normalised"), (spec,))
    scores = [each.score for each in task.decode((raw,), WHOLE).detections]
    assert scores == np.round(np.sort(table[:, 4].astype(np.float32))[::-1][:10].astype(float), 5).tolist()


def test_equal_scores_come_in_the_order_of_their_cells(make_bundle):
    table = blank(CELLS, 7)
    for place, cell in enumerate((70, 5, 30)):
        table[cell] = [0.1 + 0.2 * place, 0.5, 0.1, 0.1, 0.5, 0, 0]
    spec, raw = stored(table, np.float32, turned=True)
    task = make_detect(make_bundle([spec], box_units="normalised"), (spec,))
    lefts = [each.box_xyxy[0] for each in task.decode((raw,), WHOLE).detections]
    assert lefts == pytest.approx([0.25, 0.45, 0.05])


@settings(max_examples=60)
@given(
    st.floats(0.0, 1.0),
    st.integers(0, 255),
    st.sampled_from([np.int8, np.uint8]),
    st.booleans(),
)
def test_the_stored_threshold_lets_through_what_the_real_one_does(make_bundle, score_min, number, dtype, turned):
    zero_point = int(np.iinfo(dtype).min)
    raw = np.full((1, CELLS, 7), zero_point, dtype=dtype)
    raw[0, 11] = np.array([128, 128, 64, 64, number, 0, 0]) + zero_point
    if turned:
        raw = np.ascontiguousarray(raw.transpose(0, 2, 1))
    spec = TensorSpec("head", raw.shape, np.dtype(dtype), Quantization((1 / 256,), (zero_point,)))
    task = make_detect(make_bundle([spec], score_min=score_min, labels=NAMES, box_units="normalised"), (spec,))
    found = [each for each in task.decode((raw,), WHOLE).detections if each.class_id == 0 and each.box_xyxy[0] == 0.375]
    assert bool(found) == (number / 256 >= score_min - 1e-8)


@pytest.mark.parametrize("turned", [False, True], ids=["cells first", "features first"])
def test_a_flood_is_bounded_and_keeps_the_best(make_bundle, turned):
    table = blank(CELLS, 7)
    table[:, :4] = [0.5, 0.5, 0.2, 0.2]
    table[:, 4:] = 0.5
    table[50, 5] = 0.9
    spec, raw = stored(table, np.int8, turned=turned)
    task = make_detect(make_bundle([spec], score_min=0.0, labels=NAMES, box_units="normalised"), (spec,))
    found = task.decode((raw,), WHOLE).detections
    assert [each.label for each in found] == ["wbc", "rbc"]


def test_a_threshold_that_nothing_can_reach(make_bundle):
    spec, raw = stored(yolov8_table(1.0), np.int8, turned=True)
    task = make_detect(make_bundle([spec], score_min=5.0, labels=NAMES, box_units="normalised"), (spec,))
    assert task.decode((raw,), WHOLE).detections == ()


@pytest.mark.parametrize(
    ("decoder", "shapes", "words"),
    [
        ("yolov8", [(1, 1001)], ["[1,1001]", "4 + classes"]),
        ("yolov8", [(1, 4, CELLS)], ["[1,4,84]", "4 + classes"]),
        ("yolov8", [(1, 4, CELLS), (1, 4, CELLS)], ["do not tell"]),
        ("yolov8", [(1, 4, CELLS), (1, 3, CELLS - 1)], ["[1,4,84]", "[1,3,83]"]),
        ("yolov8", [(1, 7, CELLS)] * 3, ["3 outputs"]),
        ("yolov8", [(2, 7, CELLS)], ["[2,7,84]"]),
        ("yolov5", [(1, 5, 3 * CELLS)], ["[1,5,252]", "5 + classes"]),
        ("yolov5", [(1, 8, 3 * CELLS)] * 2, ["2 outputs", "5 + classes"]),
        ("yolox", [(1, 100, 8)], ["100 cells", "84"]),
        ("ssd", [(1, 7, CELLS)], ["1 outputs", "boxes"]),
    ],
)
def test_outputs_that_do_not_fit_are_refused_by_shape(make_bundle, decoder, shapes, words):
    specs = tuple(TensorSpec("head", shape, np.dtype(np.float32)) for shape in shapes)
    with pytest.raises(ModelError) as refused:
        make_detect(make_bundle(specs, decoder), specs)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("decoder", sorted(TABLES))
def test_labels_of_another_number_are_refused(make_bundle, decoder):
    spec, _ = stored(TABLES[decoder](1.0), np.float32, turned=False)
    with pytest.raises(ModelError, match="2 labels for the 3 classes"):
        make_detect(make_bundle([spec], decoder, labels=NAMES[:2]), (spec,))


def test_an_unknown_decoder_names_the_nearest(make_bundle):
    spec, _ = stored(yolov8_table(1.0), np.float32, turned=False)
    with pytest.raises(Exception, match="did you mean 'yolov8'"):
        make_detect(make_bundle([spec], "yolo8"), (spec,))


def test_an_output_of_another_shape_than_the_file_said(make_bundle):
    spec, raw = stored(yolov8_table(1.0), np.float32, turned=True)
    task = make_detect(make_bundle([spec], labels=NAMES), (spec,))
    with pytest.raises(ModelError, match=r"came as \[1, 7, 83\]"):
        task.decode((raw[:, :, 1:],), WHOLE)


def test_boxes_in_the_wrong_units_are_told_once(make_bundle, caplog):
    spec, raw = stored(yolov8_table(SIZE), np.float32, turned=True)
    task = make_detect(make_bundle([spec], labels=NAMES, box_units="normalised"), (spec,))
    task.decode((raw,), WHOLE)
    task.decode((raw,), WHOLE)
    assert [record.getMessage().count("--box-units pixels") for record in caplog.records] == [1]


def test_the_decoders_that_can_be_named_are_those_that_there_are():
    assert sorted(DECODERS) == sorted(recognise.DECODERS["detect"])
