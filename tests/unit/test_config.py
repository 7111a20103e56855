import pytest

from edgeinfer.config import read_config
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
        (ONE + "score_min = 1.5", "pipeline[0].score_min: expected `float` <= 1.0 (it is 1.5)"),
        (ONE + "score_min = 'high'", "pipeline[0].score_min: expected `float | null`, got `str` (it is 'high')"),
        (ONE + "threads = 0", "pipeline[0].threads: expected `int` >= 1 (it is 0)"),
        (ONE + "frames = -3", "pipeline[0].frames: expected `int` >= 1 (it is -3)"),
        (ONE + "max_age = 0", "pipeline[0].max_age: expected `float` > 0.0 (it is 0)"),
        (ONE + "output = 'out.jsonl'", "pipeline[0].output: expected `array`, got `str`"),
        (ONE + "colour = 'rbg'", "pipeline[0].colour: invalid enum value 'rbg'"),
        (ONE + "name = 'a/b'", "pipeline[0].name: expected `str` matching regex"),
        ("[[pipeline]]\nmodel = 'm'\n", "pipeline[0]: object missing required field `source`"),
        ("node = 'a'\n", "the top level: object missing required field `pipeline`"),
        ("pipeline = []\n", "pipeline: expected `array` of length >= 1"),
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


def test_a_missing_configuration_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml: No such file"):
        read_config(tmp_path / "absent.toml")
