"""What several commands are told in the same words."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeinfer.board.roots import Roots
from edgeinfer.config import PipelineConfig
from edgeinfer.errors import UsageError


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What a person may say over the facts of a model."""
    model = parser.add_argument_group("where a model does not say it itself")
    model.add_argument("--task", help="classify, detect, pose, segment, audio, anomaly, vector")
    model.add_argument("--decoder", help="of that task, such as yolov8 (also 11); docs/models.md has all")
    model.add_argument("--colour", metavar="ORDER", help="rgb, bgr or gray")
    model.add_argument("--layout", help="nhwc or nchw")
    model.add_argument(
        "--mean", metavar="X[,Y…]", type=numbers, help="real = (x - mean) / std; 1 for all channels, or 1 each"
    )
    model.add_argument("--std", metavar="X[,Y…]", type=numbers, help="as for --mean")
    model.add_argument("--fit", help="letterbox, stretch or crop")
    model.add_argument("--box-units", help="normalised or pixels")
    model.add_argument("--output-is", help="of a classifier: probabilities or logits")
    model.add_argument("--threshold", metavar="X", type=number, help="from this score on something is an anomaly")
    model.add_argument("--front-end", metavar="F", help="of sound: mfcc, filterbank, log-mel, none")
    model.add_argument("--sample-rate", metavar="HZ", type=number, help="samples a second that the model takes")
    model.add_argument("--stride", metavar="N", type=whole, help="samples from one window to the next")
    model.add_argument("--iou-max", metavar="X", type=number, help="of two boxes that overlap more, the better stays")
    model.add_argument("--max-results", metavar="N", type=whole, help="at most so many of a frame, the best first")


def add_mqtt_arguments(parser: argparse.ArgumentParser) -> None:
    """How to come to a broker, in the words of `[uplink]` in the configuration."""
    broker = parser.add_argument_group("the MQTT broker")
    broker.add_argument("--mqtt-ca", metavar="FILE", help="certificates to trust, in PEM, instead of the system's")
    broker.add_argument("--mqtt-cert", metavar="FILE", help="our own certificate, in PEM")
    broker.add_argument("--mqtt-key", metavar="FILE", help="its key, where it is not in the same file")
    broker.add_argument(
        "--mqtt-server-name", metavar="NAME", help="what the broker's certificate bears, if not the host"
    )
    broker.add_argument("--mqtt-alpn", metavar="P", action="append", help="protocol to offer in TLS; repeatable")
    broker.add_argument("--mqtt-user-file", metavar="FILE", help="a file with the user name, in one line")
    broker.add_argument("--mqtt-password-file", metavar="FILE", help="a file with the password, in one line")
    broker.add_argument("--mqtt-prefix", metavar="TOPIC", help="of every topic (edgeinfer/v1)")


def add_recorded_arguments(parser: argparse.ArgumentParser) -> None:
    """To look at a board that is not this one."""
    recorded = parser.add_argument_group("another board's recorded trees; the packages are still those of this machine")
    recorded.add_argument("--sys", metavar="DIR", type=Path, help="instead of /sys")
    recorded.add_argument("--proc", metavar="DIR", type=Path, help="instead of /proc")
    recorded.add_argument("--dev", metavar="DIR", type=Path, help="instead of /dev")


def recorded_roots(arguments: argparse.Namespace) -> Roots:
    """Raises UsageError."""
    given = {name: getattr(arguments, name) for name in ("sys", "proc", "dev") if getattr(arguments, name) is not None}
    for name, folder in given.items():
        if not folder.is_dir():
            raise UsageError(f"--{name} {folder} is not a folder", hint="name the folder of the recorded tree")
    return Roots(**given)


def stated_mqtt_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was typed of `--mqtt-…`, by its names in `[uplink]`."""
    begin = "mqtt_"
    return {
        name.removeprefix(begin): value
        for name, value in vars(arguments).items()
        if name.startswith(begin) and value is not None
    }


def stated_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was typed of the words of a pipeline, by their names in the configuration."""
    names = PipelineConfig.__struct_fields__
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name, None) is not None}


def flag_of(keys: str) -> str:
    """`mean[1]` as it was typed: `--mean`."""
    return "--" + keys.partition("[")[0].replace("_", "-")


def mqtt_flag_of(keys: str) -> str:
    """`server_name` of `[uplink]` as it was typed: `--mqtt-server-name`, the URL as `--mqtt`."""
    name = keys.partition("[")[0].replace("_", "-")
    return "--mqtt" if name == "url" else f"--mqtt-{name}"


def web_flag_of(keys: str) -> str:
    """`token_file` of `[web]` as it was typed: `--web-token-file`, the address as `--web`."""
    return "--web" if keys == "listen" else f"--web-{keys.replace('_', '-')}"


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor several with commas between") from None


def for_channels(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """One value for all channels, or `temp=hold,vib=linear`."""

    def read_all(text: str) -> Any:
        if "=" not in text:
            return read(text)
        return {name: read(value) for name, _, value in (part.partition("=") for part in text.split(","))}

    return read_all
