"""Scores of classes against a softmax and a sort written out."""

import math

import numpy as np
import pytest

from edgeinfer.errors import ModelError
from edgeinfer.preprocess import WHOLE
from edgeinfer.tasks.classify import Classify
from edgeinfer.tensor import Quantization, TensorSpec, quantize


@pytest.fixture
def make_task(make_bundle):
    def make(*specs, **facts):
        return Classify(make_bundle(specs, "classify", task="classify", **facts), specs)

    return make


def spec_of(*shape, dtype=np.float32, quantization=None):
    return TensorSpec("scores", shape, np.dtype(dtype), quantization)


def told(outcome):
    return [(each.label, each.class_id, each.score) for each in outcome.classes]


def test_the_best_come_first_and_only_those_that_reach_the_threshold(make_task):
    task = make_task(spec_of(1, 4), labels=("a", "b", "c", "d"), score_min=0.2)
    raw = np.array([[0.2, 0.05, 0.5, 0.25]], dtype=np.float32)
    assert told(task.decode((raw,), WHOLE)) == [("c", 2, 0.5), ("d", 3, 0.25), ("a", 0, 0.2)]


def test_at_most_max_results_and_equal_scores_by_class_id(make_task):
    task = make_task(spec_of(1, 6), score_min=0.1, max_results=3)
    raw = np.array([[0.1, 0.3, 0.1, 0.3, 0.1, 0.1]], dtype=np.float32)
    assert [each.class_id for each in task.decode((raw,), WHOLE).classes] == [1, 3, 0]


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
def test_logits_go_through_a_softmax(make_task, shift):
    logits = [1.0, 3.0, 2.0]
    task = make_task(spec_of(1, 3), score_min=0.0, output_is="logits")
    found = task.decode((np.array([logits], dtype=np.float32) + np.float32(shift),), WHOLE).classes
    total = sum(math.exp(each) for each in logits)
    assert [each.class_id for each in found] == [1, 2, 0]
    assert [each.score for each in found] == pytest.approx([math.exp(x) / total for x in (3.0, 2.0, 1.0)], abs=1e-4)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_quantised_logits(make_task, dtype):
    zero_point = 10 + int(np.iinfo(dtype).min)
    spec = spec_of(1, 3, dtype=dtype, quantization=Quantization((0.1,), (zero_point,)))
    raw = quantize(np.array([[0.5, 4.0, 1.0]]), spec)
    found = make_task(spec, score_min=0.5, output_is="logits").decode((raw,), WHOLE).classes
    expected = math.exp(4) / (math.exp(0.5) + math.exp(4) + math.exp(1))
    assert [(each.class_id, each.score) for each in found] == [(1, pytest.approx(expected, abs=1e-4))]


@pytest.mark.parametrize(("dtype", "zero_point"), [(np.int8, -128), (np.uint8, 0)])
@pytest.mark.parametrize("score_min", [0.0, 0.25, 0.5, 0.6, 0.99, 1.0])
def test_every_stored_number_against_its_real_one(make_task, dtype, zero_point, score_min):
    spec = spec_of(1, 256, dtype=dtype, quantization=Quantization((1 / 256,), (zero_point,)))
    raw = (np.arange(256) + zero_point).astype(dtype)[None]
    found = make_task(spec, score_min=score_min, max_results=300).decode((raw,), WHOLE).classes
    expected = [number for number in range(255, -1, -1) if number / 256 >= score_min]
    assert [each.class_id for each in found] == expected
    assert [each.score for each in found] == [round(number / 256, 5) for number in expected]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize(("count", "max_results"), [(5, 9), (40, 9), (40, 100)], ids=["few", "many", "all of many"])
def test_bytes_that_are_equal_are_told_by_class_id(make_task, dtype, count, max_results):
    least = int(np.iinfo(dtype).min)
    spec = spec_of(1, 1000, dtype=dtype, quantization=Quantization((1 / 256,), (least,)))
    numbers = np.zeros(1000, dtype=np.int64)
    numbers[100 : 100 + count] = 128
    numbers[[7, 900]] = 200, 64
    found = make_task(spec, score_min=0.25, max_results=max_results).decode(
        ((numbers + least).astype(dtype)[None],), WHOLE
    )
    expected = [(7, 200), *((class_id, 128) for class_id in range(100, 100 + count)), (900, 64)][:max_results]
    assert [(each.class_id, each.score) for each in found.classes] == [
        (class_id, round(number / 256, 5)) for class_id, number in expected
    ]


@pytest.mark.parametrize("shape", [(1, 1, 1, 5), (1, 5, 1, 1), (5,), (-1, 5)])
def test_sizes_of_one_do_not_matter(make_task, shape):
    raw = np.array([0, 0, 0, 0.9, 0.1], dtype=np.float32).reshape([max(size, 1) for size in shape])
    assert told(make_task(spec_of(*shape)).decode((raw,), WHOLE)) == [("3", 3, 0.9)]


@pytest.mark.parametrize("output_is", ["logits", "probabilities"])
def test_numbers_that_are_none_never_become_a_class(make_task, output_is):
    task = make_task(spec_of(1, 3), output_is=output_is, score_min=0.0)
    raw = np.full((1, 3), np.nan, dtype=np.float32)
    assert task.decode((raw,), WHOLE).classes == ()


def test_a_score_stays_within_its_bounds(make_task):
    raw = np.array([[1.0001, 0.5]], dtype=np.float32)
    assert [each.score for each in make_task(spec_of(1, 2)).decode((raw,), WHOLE).classes] == [1.0, 0.5]


def test_of_several_outputs_that_with_as_many_classes_as_labels(make_task):
    specs = (spec_of(1, 1280), spec_of(1, 3))
    task = make_task(*specs, labels=("a", "b", "c"))
    raw = (np.zeros((1, 1280), dtype=np.float32), np.array([[0, 0.8, 0]], dtype=np.float32))
    assert told(task.decode(raw, WHOLE)) == [("b", 1, 0.8)]


@pytest.mark.parametrize(
    ("shapes", "labels", "words"),
    [
        ([(1, 1)], (), r"\[1,1\].* at least 2 classes"),
        ([(1, 7, 7, 3)], (), r"\[1,7,7,3\].*\[1, classes\]"),
        ([(1, 3), (1, 3)], (), "expected one"),
        ([(1, 1000)], ("background", *map(str, range(1000))), "1001 labels for the 1000 classes"),
        ([()], (), "expected one"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(make_task, shapes, labels, words):
    with pytest.raises(ModelError, match=words):
        make_task(*(spec_of(*shape) for shape in shapes), labels=labels)


def test_another_number_of_classes_than_the_file_said(make_task):
    with pytest.raises(ModelError, match="came with 4 numbers"):
        make_task(spec_of(1, 3)).decode((np.zeros((1, 4), dtype=np.float32),), WHOLE)
