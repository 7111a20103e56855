"""docs/install: what is to be typed can be typed, and each section says whether it was."""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from edgeinfer.cli import Parser, main
from edgeinfer.config import read_config

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs" / "install").glob("*.md") if path.name != "README.md")
BLOCK = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """What is indented, block by block."""
    text = page.read_text().split("\n## ", 1)[1]
    return [re.sub("^ {4}", "", block, flags=re.MULTILINE) for block in BLOCK.findall(text) if block.strip()]


def is_settings(block: str) -> bool:
    return block.lstrip().startswith("[")


def commands(page: Path, program: str) -> list[list[str]]:
    lines = [line for block in blocks(page) if not is_settings(block) for line in block.splitlines()]
    found = []
    for line in lines:
        words = shlex.split(line)
        words = words[1:] if words[:1] == ["sudo"] else words
        if words and (words[0] == program or words[0].endswith(f"/bin/{program}")):
            found.append(words[1:])
    return found


ASKED = sorted({shlex.join(words) for page in PAGES for words in commands(page, "edgeinfer")})


def test_each_page_is_in_the_index():
    index = (ROOT / "docs" / "install" / "README.md").read_text()
    assert [page.name for page in PAGES if f"({page.name})" not in index] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_section_says_whether_it_was_tried(page):
    sections = page.read_text().split("\n## ")[1:]
    assert sections
    silent = [text.splitlines()[0] for text in sections if not re.match(r"[^\n]+\n\*\*(Tried|Untested)\*\*", text)]
    assert silent == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_block_is_shell_or_settings(page):
    shell = "\n".join(block for block in blocks(page) if not is_settings(block))
    done = subprocess.run(["bash", "-n"], input=shell, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("asked", ASKED)
def test_each_command_of_edgeinfer_is_one(asked):
    name, *words = shlex.split(asked)
    command = import_module(f"edgeinfer.cli.{name}")
    parser = Parser(prog=f"edgeinfer {name}", allow_abbrev=False)
    command.add_arguments(parser)
    parser.parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_script_is_there(page):
    named = re.findall(r"\bscripts/\w+", page.read_text())
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_extra_that_is_installed_exists(page):
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    asked = {extra for found in re.findall(r"'\.\[([\w,]+)\]'", page.read_text()) for extra in found.split(",")}
    assert asked <= extras


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_configuration_to_begin_with_is_one(tmp_path):
    [settings] = [block for block in blocks(ROOT / "docs/install/debian-ubuntu.md") if is_settings(block)]
    (tmp_path / "edgeinfer.toml").write_text(settings)
    [door] = read_config(tmp_path / "edgeinfer.toml").pipeline
    assert (door.name, door.model, door.source) == ("door", "blood-cells", "/dev/video0")


def test_the_first_run_of_debian_ubuntu_gives_results(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgeinfer.cli._interrupt_on_signals", lambda: None)
    [words] = [one for one in commands(ROOT / "docs/install/debian-ubuntu.md", "edgeinfer") if one[0] == "run"]
    assert main([*words, "--quiet"]) == 0
    assert capfd.readouterr().out.count('"detections"') == 5
