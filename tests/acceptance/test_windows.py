"""Real models of sound and of sensors give the figures that a plain interpreter loop gave for them."""

from __future__ import annotations

import csv
import gzip
import wave

import cv2
import numpy as np
import pytest

from edgeinfer.bundle import Overrides, load_bundle
from edgeinfer.config import PipelineConfig
from edgeinfer.delegates import load_golden
from edgeinfer.errors import AmbiguousModel, ModelError, UsageError
from edgeinfer.frame import Window
from edgeinfer.model import open_model
from edgeinfer.pipeline.assemble import open_pipeline

WAKEWORDS_S = ((1.0, 1.65), (4.0, 4.76), (7.0, 7.36))
MODEL_TOML = """schema = "edgeinfer.model/1"
name = "made"
version = "1"
"""


@pytest.fixture
def open_real(test_data):
    """A model of the test data on the CPU."""
    opened = []

    def open_(name, **said):
        opened.append(open_model(test_data / "models" / name, device="auto", overrides=Overrides(**said)))
        return opened[-1]

    yield open_
    for model in opened:
        model.close()


@pytest.fixture
def bundle_of(test_data, tmp_path):
    """A bundle folder with a link to a model of the test data, and the rest of a model.toml."""

    def make(name, text):
        weights = test_data / "models" / name
        (tmp_path / weights.name).symlink_to(weights)
        kind = weights.suffix.removeprefix(".")
        (tmp_path / "model.toml").write_text(f'{MODEL_TOML}{text}\n[weights]\n{kind} = "{weights.name}"\n')
        return tmp_path

    return make


def sound(test_data, name):
    """(samples,) of a 16-bit .wav in -1..1, its channels mixed."""
    with wave.open(str(test_data / "media/audio" / name)) as file:
        assert (file.getframerate(), file.getsampwidth()) == (16_000, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
    return (samples.mean(axis=1) / 32768).astype(np.float32)


def windows(samples, facts, *, gap_at=()):
    samples = samples if samples.ndim == 2 else samples[:, None]
    for seq, start in enumerate(range(0, len(samples) - facts.length + 1, facts.stride)):
        values = samples[start : start + facts.length]
        follows = seq > 0 and seq not in gap_at
        place_s = start / facts.rate_hz
        yield Window(values, seq, 0, 0, "test:", facts.rate_hz, facts.channels, place_s, follows=follows)


@pytest.mark.parametrize(("name", "label", "score"), [("speech.wav", "Speech", 0.97), ("meow_16k.wav", "Cat", 0.74)])
def test_yamnet_hears_what_is_to_be_heard(open_real, test_data, name, label, score):
    model = open_real("yamnet_with_metadata.tflite", score_min=0.0, max_results=521)
    results = [model.infer(window) for window in windows(sound(test_data, name), model.bundle.window)]
    means = {}
    for result in results:
        for each in result.classes:
            means[each.label] = means.get(each.label, 0.0) + each.score / len(results)
    assert max(means, key=means.get) == label
    assert means[label] == pytest.approx(score, abs=0.02)
    assert (results[0].source.rate_hz, results[0].source.samples, results[0].source.width) == (16_000, 15_600, None)


def test_keywords_are_spotted_from_published_features(open_real, test_data):
    model = open_real("mlperf_tiny/kws_dscnn_int8.tflite", front_end="none", sample_rate_hz=50.0, score_min=0.0)
    spec = model.bundle.file.inputs[0]
    folder = test_data / "labelled/mlperf_tiny_kws01"
    right = 0
    # Of the 1000 that are listed, six files are not among the test data.
    with (folder / "y_labels.csv").open(newline="") as listed:
        rows = [row for row in csv.reader(listed) if (folder / row[0]).is_file()]
    assert len(rows) >= 994
    for seq, (name, _, label) in enumerate(rows):
        stored = np.fromfile(folder / name, dtype=np.int8).reshape(49, 10).astype(np.float64)
        real = (stored - spec.quantization.zero_point[0]) * spec.quantization.scale[0]
        channels = model.bundle.window.channels
        result = model.infer(Window(real.astype(np.float32), seq, 0, 0, "test:", 50.0, channels))
        right += result.classes[0].class_id == int(label)
    assert right / len(rows) == pytest.approx(0.902, abs=0.002)


@pytest.mark.parametrize("name", ["kws_dscnn_int8.tflite", "kws_dscnn_fp32.tflite"])
@pytest.mark.parametrize(("recording", "label"), [("yes_1000ms.wav", "Yes"), ("silence_1000ms.wav", "Silence")])
def test_keywords_are_spotted_from_sound(open_real, test_data, name, recording, label):
    model = open_real(f"mlperf_tiny/{name}", score_min=0.5)
    (window,) = windows(sound(test_data, recording), model.bundle.window)
    assert [each.label for each in model.infer(window).classes] == [label]


def test_the_keyword_front_end_gives_the_published_features_of_a_recording(open_real, test_data):
    """`no_1000ms.wav` is what tst_000195_No_3.bin was made from; its makers cut off what is behind the point."""
    from edgeinfer.mel import features

    quantization = open_real("mlperf_tiny/kws_dscnn_int8.tflite").bundle.file.inputs[0].quantization
    real = features("mfcc", sound(test_data, "no_1000ms.wav").astype(np.float64), 16_000.0)
    stored = np.trunc(real / quantization.scale[0] + quantization.zero_point[0]).clip(-128, 127)
    published = np.fromfile(test_data / "labelled/mlperf_tiny_kws01/tst_000195_No_3.bin", np.int8)
    assert stored.ravel().tolist() == published.tolist()


def test_the_three_wakewords_are_heard_and_nothing_else(open_real, test_data):
    model = open_real("mlperf_tiny/streaming_wakeword.tflite", score_min=0.75)
    samples, facts = sound(test_data, "streaming_wakeword_easy10s.wav"), model.bundle.window
    heard_s = [
        (window.position_s, window.position_s + facts.length / facts.rate_hz)
        for window in windows(samples, facts)
        if any(each.label == "Marvin" for each in model.infer(window).classes)
    ]
    # Each window that hears one overlaps one, and each of the three is heard.
    overlaps = [[start < to and begin < end for start, end in WAKEWORDS_S] for begin, to in heard_s]
    assert overlaps
    assert all(any(each) for each in overlaps)
    assert np.any(overlaps, axis=0).tolist() == [True, True, True]


def test_silero_hears_speech_as_the_plain_runtime_does_and_forgets_at_a_gap(open_real, test_data):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = test_data / "models/silero_vad_16k.onnx"
    model = open_real(path.name, score_min=0.0)
    facts = model.bundle.window
    samples = sound(test_data, "speech.wav")[: 16_000 * 2]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state = np.zeros((2, 1, 128), np.float32)
    for window in windows(samples, facts, gap_at=(40,)):
        if not window.follows:
            state[:] = 0
        feed = {"input": window.values.T, "state": state, "sr": np.array(16_000, np.int64)}
        expected, state = session.run(None, feed)
        assert model.infer(window).classes[0].score == pytest.approx(float(expected[0, 0]), abs=2e-4)
    state_matters = [model.infer(window).classes[0].score for window in windows(samples, facts, gap_at=range(999))]
    assert np.std(state_matters) > 0.01


def test_the_autoencoder_scores_as_a_plain_loop_does(open_real, test_data):
    from edgeinfer.mel import features

    model = open_real("mlperf_tiny/ad01_fp32.tflite", threshold=35.0)
    interpreter = plain_interpreter(test_data / "models/mlperf_tiny/ad01_fp32.tflite")
    for window in windows(sound(test_data, "noise_1000ms.wav"), model.bundle.window):
        wanted = features("log-mel", window.values[:, 0].astype(np.float64), 16_000.0).reshape(1, 640)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], wanted.astype(np.float32))
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        anomaly = model.infer(window).anomaly
        assert anomaly.score == pytest.approx(float(np.mean((found - wanted) ** 2)), rel=1e-4)
        assert anomaly.is_anomaly == (anomaly.score >= 35.0)


def test_a_detector_keeps_its_state_as_a_plain_loop_does(open_real, test_data):
    # So that each pixel is stored as it is, which is what the loop below feeds.
    model = open_real("traffic_stateful_lstm.tflite", score_min=0.0, mean=(128.0,), std=(128.0,))
    interpreter = plain_interpreter(test_data / "models/traffic_stateful_lstm.tflite")
    inputs = {detail["name"].rpartition("/")[2]: detail for detail in interpreter.get_input_details()}
    outputs = {detail["name"].rpartition("/")[2]: detail for detail in interpreter.get_output_details()}
    state = {name: np.zeros((1, 8, 8, 320), np.uint8) for name in ("lstm_c", "lstm_h")}
    for path in sorted((test_data / "media/image").glob("traffic_*.bmp")):
        picture = cv2.imread(str(path))
        interpreter.set_tensor(inputs["normalized_input_image_tensor"]["index"], picture[None, :, :, ::-1])
        for name, each in state.items():
            interpreter.set_tensor(inputs[f"init_{name}"]["index"], each)
        interpreter.invoke()
        state = {name: interpreter.get_tensor(outputs[name]["index"]) for name in state}
        scores = interpreter.get_tensor(outputs["TFLite_Detection_PostProcess:2"]["index"])[0]
        found = [each.score for each in model(picture).detections]
        assert found[0] == pytest.approx(float(scores.max()), abs=1e-4)


def test_a_recurrent_model_classifies_rows_of_numbers(bundle_of, test_data):
    folder = bundle_of(
        "keras_lstm_mnist_int8.tflite",
        f"""task = "vector"
labels = "labels.txt"
[window]
rate_hz = 10.0
channels = [{", ".join(f'"x{column}"' for column in range(28))}]
mean = [0.0]
std = [255.0]
""",
    )
    (folder / "labels.txt").write_text("\n".join("0123456789"))
    data = test_data / "labelled/mnist"
    pictures = np.frombuffer(gzip.decompress((data / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    digits = np.frombuffer(gzip.decompress((data / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    right = 0
    with open_model(folder, overrides=Overrides(score_min=0.0)) as model:
        for seq, picture in enumerate(pictures.reshape(-1, 28, 28)):
            window = Window(picture.astype(np.float32), seq, 0, 0, "test:", 10.0, model.bundle.window.channels)
            right += model.answer(window).outcome.classes[0].class_id == digits[seq]
    assert right / len(digits) == pytest.approx(0.872, abs=0.002)


def test_what_a_file_does_not_say_is_asked_for(open_real, bundle_of):
    with pytest.raises(AmbiguousModel, match="--threshold"):
        open_real("mlperf_tiny/ad01_int8.tflite")
    with pytest.raises(AmbiguousModel, match="--sample-rate"):
        open_real("conv_fc_mnist.tflite", task="vector")
    with pytest.raises(AmbiguousModel, match="--decoder classes or values"):
        open_real("conv_fc_mnist.tflite", task="vector", sample_rate_hz=1.0)
    folder = bundle_of("silero_vad_16k.onnx", '[state]\nstateN = "stat"\n[window]\nrate_hz = 16000\n')
    with pytest.raises(ModelError, match="the model has no input 'stat', only 'input', 'state', 'sr'"):
        load_bundle(folder, prefer="onnx")


def test_a_picture_is_no_window_and_the_other_way_round(open_real):
    hears, sees = open_real("yamnet_with_metadata.tflite"), open_real("conv_fc_mnist_int8.tflite")
    with pytest.raises(UsageError, match="takes samples, not pictures"):
        hears(np.zeros((4, 4, 3), np.uint8))
    window = Window(np.zeros((15_600, 1), np.float32), 0, 0, 0, "test:", 16_000.0, ())
    with pytest.raises(UsageError, match="takes pictures, not samples"):
        sees.infer(window)
    with pytest.raises(UsageError, match="at 8000 Hz"):
        hears.infer(Window(window.values, 0, 0, 0, "test:", 8_000.0, ()))


def test_a_golden_sample_of_a_window_is_tensors(bundle_of, test_data):
    golden = '[[golden]]\ninput = "sample.npz"\n[decode]\nthreshold = 10\n[window]\nrate_hz = 16000\n'
    folder = bundle_of("mlperf_tiny/ad01_int8.tflite", f'task = "anomaly"\n{golden}front_end = "log-mel"\nstride = 512')
    np.savez(folder / "sample.npz", np.zeros((1, 640), np.int8))
    (sample,) = load_golden(load_bundle(folder))
    assert sample.inputs[0].shape == (1, 640)
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(text.replace("sample.npz", "sample.png"))
    with pytest.raises(ModelError, match="the model takes samples"):
        load_golden(load_bundle(folder))


@pytest.mark.parametrize(("option", "said"), [("output", ("heard.mp4",)), ("gate", "motion")])
def test_what_needs_pictures_is_refused_before_a_window_is_read(test_data, tmp_path, monkeypatch, option, said):
    monkeypatch.chdir(tmp_path)
    model = str(test_data / "models/yamnet_with_metadata.tflite")
    config = PipelineConfig(model=model, source="synthetic://noise?frames=1", **{option: said})
    with pytest.raises(UsageError, match="takes samples"):
        open_pipeline(config)
    assert not (tmp_path / "heard.mp4").exists()


def plain_interpreter(path):
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed")
    interpreter = litert.Interpreter(str(path))
    interpreter.allocate_tensors()
    return interpreter
