"""Who may look in, and who may act."""

from __future__ import annotations

import base64
import socket

import pytest

from edgeinfer.config import WebConfig
from edgeinfer.errors import ConfigError, UsageError
from edgeinfer.web.access import Access, is_same_origin, read_listen, read_token, refuse_open

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("words", "host", "port", "is_loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("8080", "127.0.0.1", 8080, True),
        (":0", "127.0.0.1", 0, True),
        ("[::1]:80", "::1", 80, True),
        ("0.0.0.0:8080", "0.0.0.0", 8080, False),
        ("[::]:8080", "::", 8080, False),
    ],
)
def test_an_address_is_read(words, host, port, is_loopback):
    found = read_listen(words)
    assert (found.host, found.port, found.is_loopback) == (host, port, is_loopback)
    assert found.family == (socket.AF_INET6 if ":" in host else socket.AF_INET)


@pytest.mark.parametrize(
    "words", ["", "localhost", "127.0.0.1:", "127.0.0.1:66000", "::1:80", "a b:80", "x:-1", "80\n"]
)
def test_what_is_no_address_is_said_in_one_line(words):
    with pytest.raises(UsageError, match="is not HOST:PORT"):
        read_listen(words)


def test_open_to_the_network_needs_a_token():
    anywhere = read_listen("0.0.0.0:8080")
    with pytest.raises(UsageError, match="everybody on the network"):
        refuse_open(anywhere, None, "0.0.0.0:8080")
    refuse_open(anywhere, TOKEN, "0.0.0.0:8080")
    refuse_open(read_listen("8080"), None, "8080")


def test_a_token_comes_from_the_file_or_the_credential(tmp_path, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "web-token").write_text(f"{TOKEN}\n")
    assert read_token(WebConfig()) is None
    assert read_token(WebConfig(token_file=str(tmp_path / "web-token"))) == TOKEN
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_token(WebConfig()) == TOKEN


@pytest.mark.parametrize(
    "content", [b"", b"short\n", b"two words of one line", b"0123456789abcdef\nmore", b"\xff" * 20, b"x" * 9999]
)
def test_a_token_that_is_none_is_refused_and_not_shown(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match="must be one line of 16 to 1024 ASCII characters") as refused:
        read_token(WebConfig(token_file=str(tmp_path / "token")))
    assert "two words" not in str(refused.value)


def test_a_missing_token_file_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        read_token(WebConfig(token_file=str(tmp_path / "token")))


def test_the_token_is_taken_as_bearer_and_as_cookie_and_nothing_else():
    access = Access(is_loopback=False, token=TOKEN)
    assert access.has_token(f"Bearer {TOKEN}", None)
    assert access.has_token(f"bearer {TOKEN}", None)
    assert access.has_token(None, access.cookie)
    assert access.has_token("Basic " + base64.b64encode(f"user:{TOKEN}".encode()).decode(), None)
    for authorization, cookie in [
        (None, None),
        (f"Basic {TOKEN}", None),
        ("Bearer", None),
        (None, TOKEN),
        ("Bearer é", "é"),
    ]:
        assert not access.has_token(authorization, cookie)
    assert TOKEN not in access.cookie
    assert TOKEN not in repr(access)


def test_without_a_token_nobody_has_it():
    access = Access(is_loopback=True)
    assert not access.has_token("Bearer ", "")
    assert not access.has_token("Bearer ", access.cookie)


def test_only_names_of_this_machine_are_ours():
    access = Access(is_loopback=True, hosts=frozenset({"pi.lan"}))
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080", "pi.lan", "LOCALHOST"):
        assert access.is_ours(host)
    for host in ("evil.example:8080", "", "[::1", "127.0.0.1.evil.example"):
        assert not access.is_ours(host)


def test_another_page_is_told_by_its_origin():
    assert is_same_origin({"host": "pi:8080", "origin": "http://pi:8080"})
    assert is_same_origin({"host": "pi:8080"})
    assert not is_same_origin({"host": "pi:8080", "origin": "http://evil.example"})
    assert not is_same_origin({"host": "pi:8080", "origin": "null"})
