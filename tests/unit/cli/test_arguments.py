"""What is typed, without a subprocess: refused in one line that names the flag, or one configuration."""

from __future__ import annotations

import argparse

import pytest

from edgeinfer.cli import Parser, main, run
from edgeinfer.cli.arguments import for_channels, number
from edgeinfer.errors import UsageError

NEEDED = ["--model", "m.tflite", "--source", "a.mp4"]


@pytest.fixture(autouse=True)
def _signals(monkeypatch):
    monkeypatch.setattr("edgeinfer.cli._interrupt_on_signals", lambda: None)


def parsed(*words) -> argparse.Namespace:
    parser = Parser(prog="edgeinfer run", allow_abbrev=False)
    run.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def configuration(*words):
    return run._configuration(parsed(*words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "m"], "--source is missing"),
        ([*NEEDED, "--score-min", "2"], "--score-min: must be at most 1 (it is 2.0)"),
        ([*NEEDED, "--score-min", "nan"], "--score-min: must be at least 0 (it is nan)"),
        ([*NEEDED, "--score-min", "much"], "--score-min: 'much' is not a number"),
        ([*NEEDED, "--frames", "0"], "--frames: must be at least 1 (it is 0)"),
        ([*NEEDED, "--frames", "1.5"], "--frames: '1.5' is not a whole number"),
        ([*NEEDED, "--mean", "1,nan,2"], "--mean: must be at least -1e+12"),
        ([*NEEDED, "--std", "0"], "--std: must be above 0"),
        ([*NEEDED, "--mean", "1,x"], "--mean: '1,x' is not a number, nor several"),
        ([*NEEDED, "--colour", "rbg"], "--colour: did you mean 'rgb'? (it is 'rbg')"),
        ([*NEEDED, "--pixel-format", "MJPEG"], "--pixel-format: must be four letters or digits"),
        (["--model", "", "--source", "a"], "--model: must be some text"),
    ],
)
def test_a_refusal_names_the_flag_as_it_was_typed(words, said):
    with pytest.raises(UsageError) as refused:
        configuration(*words)
    assert str(refused.value).startswith(said)


def test_flags_become_one_pipeline():
    (pipeline,) = configuration(*NEEDED, "--score-min", 0.5, "-o", "a.csv", "-o", "b.mp4", "--std", "1,2,3").pipeline
    assert (pipeline.model, pipeline.source, pipeline.score_min) == ("m.tflite", "a.mp4", 0.5)
    assert (pipeline.output, pipeline.std) == (("a.csv", "b.mp4"), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(("is_terminal", "output"), [(True, ()), (False, ("-",))])
@pytest.mark.parametrize("from_file", [True, False])
def test_where_no_output_is_said_a_pipe_gets_json_lines(monkeypatch, tmp_path, is_terminal, output, from_file):
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    config = tmp_path / "one.toml"
    config.write_text("[[pipeline]]\nmodel = 'm'\nsource = 's'\n")
    words = ["--config", config] if from_file else NEEDED
    assert configuration(*words).pipeline[0].output == output


def test_flags_go_over_the_file(tmp_path):
    config = tmp_path / "one.toml"
    config.write_text("[[pipeline]]\nmodel = 'm'\nsource = 's'\nscore_min = 0.1\noutput = ['a.csv']\n")
    (pipeline,) = configuration("--config", config, "--score-min", "0.9", "--frames", 3).pipeline
    assert (pipeline.score_min, pipeline.frames, pipeline.output) == (0.9, 3, ("a.csv",))


def test_one_source_cannot_go_over_several_pipelines(tmp_path):
    config = tmp_path / "two.toml"
    config.write_text("[[pipeline]]\nmodel = 'm'\nsource = 's'\n[[pipeline]]\nname = 'b'\nmodel='m'\nsource='s'\n")
    with pytest.raises(UsageError, match="--source"):
        configuration("--config", config, "--source", "x")
    assert len(configuration("--config", config, "--frames", "3").pipeline) == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["rum"], 2, "unknown command 'rum': did you mean 'run'?"),
        (["run", "--modle", "x"], 2, "unknown argument '--modle'; did you mean --model?"),
        (["run", "--model"], 2, "--model: expected one argument; edgeinfer run --help"),
        (["run", "--model", "~nobody-here/x", "--source", "a"], 5, "a"),
        (["inspect", "~nobody-here/x"], 3, "cannot read the model '~nobody-here/x'"),
        (["inspect", "a" * 3000], 3, "File name too long"),
        (["inspect", "a\x1b[2Jb"], 3, "no such model: a\\x1b[2Jb"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(capsys, words, code, said):
    assert main(words) == code
    err = capsys.readouterr().err
    assert err.startswith("edgeinfer: error: ")
    assert said in err
    assert err.count("\n") == 1
    assert err[:-1].isprintable()


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["inspect", "--help"], ["--version"], []])
def test_help_fits_a_hundred_columns_and_every_flag_is_explained(capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(words) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100


def test_every_flag_of_run_is_explained():
    parser = Parser()
    run.add_arguments(parser)
    assert [action.dest for action in parser._actions if not action.help] == []


def test_a_value_for_all_channels_or_for_each():
    assert for_channels(str)("hold") == "hold"
    assert for_channels(number)("temp=60,vib=0.1") == {"temp": 60.0, "vib": 0.1}
    with pytest.raises(argparse.ArgumentTypeError, match="'x' is not a number"):
        for_channels(number)("temp=x")
