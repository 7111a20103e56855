import pytest

from edgeinfer.config import PipelineConfig, clash_of_outputs, read_config
from edgeinfer.errors import ConfigError

ONE = '[[pipeline]]\nmodel = "m.tflite"\nsource = "/dev/video0"\n'


@pytest.fixture
def configured(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "edgeinfer.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_config(path)

    return write


def test_two_pipelines_in_the_words_of_the_command_line(configured):
    config = configured(
        'node = "pi-7"\n'
        '[[pipeline]]\nname = "door"\nmodel = "ssd.tflite"\nsource = "/dev/video0"\nscore_min = 0.4\n'
        'output = ["-", "door.mp4"]\nmax_age = 500\n'
        '[[pipeline]]\nname = "yard"\nmodel = "blood-cells"\nsource = "rtsp://cam/1"\n'
        'device = "onnx:cpu"\nthreads = 2\n'
    )
    door, yard = config.pipeline
    assert (config.node, door.name, door.score_min, door.output, door.max_age) == (
        "pi-7",
        "door",
        0.4,
        ("-", "door.mp4"),
        500,
    )
    assert (yard.device, yard.threads, yard.output) == ("onnx:cpu", 2, ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ONE + "scoremin = 0.5", "pipeline[0].scoremin: unknown key; did you mean 'score_min'?"),
        (ONE + "zzz = 1", "pipeline[0].zzz: unknown key; known: model, source, name"),
        ("nod = 'x'\n" + ONE, "nod: unknown key; did you mean 'node'?"),
        (ONE + "score_min = 1.5", "pipeline[0].score_min: must be at most 1 (it is 1.5)"),
        (ONE + "score_min = 'high'", "pipeline[0].score_min: must be a number, not text (it is 'high')"),
        (ONE + "threads = 0", "pipeline[0].threads: must be at least 1 (it is 0)"),
        (ONE + "frames = -3", "pipeline[0].frames: must be at least 1 (it is -3)"),
        (ONE + "max_age = 0", "pipeline[0].max_age: must be above 0 (it is 0)"),
        (ONE + "output = 'out.jsonl'", "pipeline[0].output: must be a list, not text (it is 'out.jsonl')"),
        (ONE + "colour = 'rbg'", "pipeline[0].colour: did you mean 'rgb'? (it is 'rbg')"),
        (ONE + "colour = 'purple'", "pipeline[0].colour: known: bgr, gray, rgb (it is 'purple')"),
        (ONE + "threads = 1.5", "pipeline[0].threads: must be a whole number, not a number (it is 1.5)"),
        (ONE + "score_min = true", "pipeline[0].score_min: must be a number, not true or false (it is True)"),
        (ONE + "score_min = nan", "pipeline[0].score_min: must be at least 0 (it is nan)"),
        (ONE + "max_age = inf", "pipeline[0].max_age: must be at most 1e+09 (it is inf)"),
        (ONE + "mean = [nan]", "pipeline[0].mean[0]: must be at least -1e+12 (it is nan)"),
        (ONE + "std = [0]", "pipeline[0].std[0]: must be above 0 (it is 0)"),
        (ONE + f"mean = {[1] * 1025}", "pipeline[0].mean: must have at most 1024 entries"),
        (ONE + "mean = []", "pipeline[0].mean: must have at least 1 entries"),
        (ONE + "output = [1]", "pipeline[0].output[0]: must be text, not a whole number (it is 1)"),
        (ONE + "name = 'a/b'", "pipeline[0].name: must be of letters, digits, '.', '_' and '-'"),
        (ONE + 'name = "a\\n"', "pipeline[0].name: must be of letters, digits"),
        (ONE + f"name = '{'a' * 65}'", "pipeline[0].name: must have at most 64 characters"),
        (ONE + 'labels = "a\\u0000b"', "pipeline[0].labels: must be some text without NUL"),
        (ONE + f"labels = '{'a' * 5000}'", f"must have at most 4096 characters (it is '{'a' * 59}…')"),
        (ONE + "pixel_format = 'MJPEG'", "pipeline[0].pixel_format: must be four letters or digits, such as MJPG"),
        ("[[pipeline]]\nmodel = 'm'\n", "pipeline[0].source: is missing"),
        ("node = 'a'\n", "pipeline: is missing"),
        ("pipeline = []\n", "pipeline: must have at least 1 entries"),
        ("pipeline = 3\n", "pipeline: must be a list, not a whole number (it is 3)"),
        ("[pipeline]\nmodel = 'm'\n", "pipeline: must be a list, not a table"),
        (ONE + "output = ['a.csv', './a.csv']\n", "pipeline[0].output: './a.csv' is written to already"),
        (ONE + "output = ['-', '-']\n", "pipeline[0].output: '-' is written to already"),
        (
            "[[pipeline]]\nmodel = 'm'\nsource = 'a.mp4'\noutput = ['./a.mp4']\n",
            "pipeline[0].output: './a.mp4' is a source, and would be overwritten",
        ),
        (ONE + ONE, "pipeline[1].name: 'main' is taken by an earlier pipeline"),
        (
            ONE + "output = ['a.csv']\n" + ONE + "name = 'b'\noutput = ['a.csv']\n",
            "pipeline[1].output: 'a.csv' is written to already",
        ),
        ("[[pipeline\n", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        ("#" * 1_100_000, "is larger than"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_path_of_the_key(configured, text, said):
    with pytest.raises(ConfigError) as refused:
        configured(text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_two_pipelines_may_share_stdout(configured):
    assert len(configured(ONE + "output = ['-']\n" + ONE + "name = 'b'\noutput = ['-']\n").pipeline) == 2


def test_a_missing_configuration_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml: No such file"):
        read_config(tmp_path / "absent.toml")


def test_a_recording_is_not_overwritten_whatever_is_said_of_it(tmp_path):
    log = tmp_path / "log.csv"
    pipeline = PipelineConfig(model="m", source=f"{log}?follow=1", output=(str(log),))
    assert "is a source, and would be overwritten" in clash_of_outputs([pipeline])


def test_what_is_missing_is_said_for_all_channels_or_for_each(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[[pipeline]]\nmodel = "m"\nsource = "-"\nmissing = { temp = "hold" }\nmissing_s = 3\n')
    (pipeline,) = read_config(path).pipeline
    assert (pipeline.missing, pipeline.missing_s) == ({"temp": "hold"}, 3)
    path.write_text('[[pipeline]]\nmodel = "m"\nsource = "-"\nmissing = "guess"\n')
    with pytest.raises(ConfigError, match=r"pipeline\[0\].missing"):
        read_config(path)
