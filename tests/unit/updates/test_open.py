"""What the configuration says of updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleets import Publisher

from edgeinfer.config import Config, read_config
from edgeinfer.errors import ConfigError
from edgeinfer.updates.open import open_configured, schedule_of


def configured(folder: Path, lines: str) -> Config:
    path = folder / "edgeinfer.toml"
    path.write_text(f'node = "pi-7"\n[[pipeline]]\nmodel = "slot:detector"\nsource = "/dev/video0"\n{lines}')
    return read_config(path)


def test_a_node_asks_as_its_configuration_says(publisher: Publisher, node: Any, tmp_path: Path) -> None:
    publisher.publish(groups=("canary",))
    publisher.publish(groups=("others",))
    config = configured(
        tmp_path,
        f'[updates]\nurl = "{publisher.served}"\nroot = "{publisher.root}"\ngroups = ["canary"]\nevery = "2h"\n',
    )
    remote = open_configured(config, node.store, clock=node.wall.clock)
    assert [each.release for each in remote.releases(("detector",))] == [1]
    assert config.updates is not None
    schedule = schedule_of(config.updates, node.store, node.wall.clock)
    assert schedule.is_due()
    schedule.asked()
    node.wall.now_s += 3600
    assert not schedule.is_due()
    node.wall.now_s += 3600
    assert schedule.is_due()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("[updates]\n", "updates.url: is missing"),
        ('[updates]\nurl = "/x"\nslots = ["Detector"]\n', "small letters, digits and -"),
        ('[updates]\nurl = "/x"\nroots = "/y"\n', "did you mean 'root'"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(tmp_path, lines)


def test_what_is_seen_only_when_it_is_used(tmp_path: Path, node: Any) -> None:
    with pytest.raises(ConfigError, match=r"there is no \[updates\]"):
        open_configured(configured(tmp_path, ""), node.store)
    config = configured(tmp_path, '[updates]\nurl = "/x"\nevery = "often"\n')
    assert config.updates is not None
    with pytest.raises(ConfigError, match=r"updates\.every"):
        schedule_of(config.updates, node.store, node.wall.clock)
