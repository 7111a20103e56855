"""`edgeinfer run --governor` as a user runs it."""

from __future__ import annotations

import json

FILM = "synthetic://test-card?frames=30&width=64&height=48"


def test_a_cared_for_run_ends_as_any_other(edgeinfer):
    ran = edgeinfer(
        "run", "--governor", "--model", "blood-cells", "--source", FILM, "--device", "fake", "--output", "-"
    )
    assert ran.code == 0
    assert [json.loads(line)["seq"] for line in ran.out.splitlines()] == list(range(30))


def test_what_the_configuration_says_of_the_governor_is_checked(edgeinfer, tmp_path):
    config = tmp_path / "door.toml"
    pipeline = f'[[pipeline]]\nmodel = "blood-cells"\nsource = "{FILM}"\ndevice = "fake"\n'
    config.write_text(f"{pipeline}[governor]\nmargin = 5\n")
    ran = edgeinfer("run", "--config", str(config))
    assert ran.code == 6
    assert "governor.margin: unknown key; did you mean 'margin_c'?" in ran.err
    config.write_text(f"{pipeline}[governor]\nlimit_c = 70\n")
    assert edgeinfer("run", "--config", str(config)).code == 0
    config.write_text(f'{pipeline}lighter = ["no-such-bundle"]\n')
    ran = edgeinfer("run", "--config", str(config))
    assert ran.code == 3
    assert "no-such-bundle" in ran.err
