"""Where the broker is and as whom to come, from a URL, files and credentials."""

from __future__ import annotations

import os
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from certificates import Authority

from edgeinfer.config import UplinkConfig
from edgeinfer.errors import ConfigError, UsageError
from edgeinfer.uplink.address import read_address
from edgeinfer.uplink.certificate import valid_until_s


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def address(url="mqtt://broker", **words):
    return read_address(
        UplinkConfig(url=url, **{key: str(word) if isinstance(word, Path) else word for key, word in words.items()})
    )


def refusal(url="mqtt://broker", **words) -> str:
    with pytest.raises(ConfigError) as refused:
        address(url, **words)
    line = str(refused.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("url", "host", "port", "shown"),
    [
        ("mqtt://broker.local", "broker.local", 1883, "mqtt://broker.local:1883"),
        ("mqtt://broker.local/", "broker.local", 1883, "mqtt://broker.local:1883"),
        ("mqtt://10.0.0.7:1884", "10.0.0.7", 1884, "mqtt://10.0.0.7:1884"),
        ("mqtt://[::1]", "::1", 1883, "mqtt://[::1]:1883"),
        ("mqtt://[fe80::1]:99", "fe80::1", 99, "mqtt://[fe80::1]:99"),
        ("mqtts://broker", "broker", 8883, "mqtts://broker:8883"),
        ("MQTTS://broker:443", "broker", 443, "mqtts://broker:443"),
    ],
)
def test_a_url_names_host_and_port(url, host, port, shown):
    found = address(url)
    assert (found.host, found.port, str(found)) == (host, port, shown)
    assert (found.tls is not None) == shown.startswith("mqtts")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://broker", "neither mqtt:// nor mqtts://"),
        ("broker:1883", "neither mqtt:// nor mqtts://"),
        ("mqtt://", "names no host"),
        ("mqtt://:1883", "names no host"),
        ("mqtt://broker:0", "1 to 65535"),
        ("mqtt://broker:65536", "1 to 65535"),
        ("mqtt://broker:port", "1 to 65535"),
        ("mqtt://[::1", "mqtt://[::1"),
        ("mqtt://broker/topic", "nothing may follow"),
        ("mqtt://broker?x=1", "nothing may follow"),
        ("mqtt://broker#x", "nothing may follow"),
    ],
)
def test_a_url_that_names_no_broker_is_refused(url, says):
    assert says in refusal(url)


def test_what_is_wrong_with_the_url_may_be_a_usage_error():
    with pytest.raises(UsageError):
        read_address(UplinkConfig(url="http://broker"), url_error=UsageError)


def test_a_password_in_the_url_is_refused_without_being_shown():
    line = refusal("mqtt://anna:geheim@broker")
    assert "password_file" in line
    assert "geheim" not in line


def test_the_user_may_be_in_the_url_and_the_password_in_a_file(tmp_path):
    (tmp_path / "password").write_text("ge heim\n")
    found = address("mqtt://anna%40home@broker", password_file=tmp_path / "password")
    assert (found.user, found.password) == ("anna@home", "ge heim")
    assert "ge heim" not in repr(found)
    assert "anna" not in str(found)


def test_user_and_password_come_from_files(tmp_path):
    (tmp_path / "user").write_text("anna")
    (tmp_path / "password").write_text("geheim\r\n")
    found = address(user_file=tmp_path / "user", password_file=tmp_path / "password")
    assert (found.user, found.password) == ("anna", "geheim")


def test_without_files_they_come_from_systemds_credentials(tmp_path, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert address().user is None
    (tmp_path / "mqtt-user").write_text("anna")
    (tmp_path / "mqtt-password").write_text("geheim")
    (tmp_path / "other").write_text("berta")
    assert (address().user, address().password) == ("anna", "geheim")
    assert address(user_file=tmp_path / "other").user == "berta"
    stranger = read_address(UplinkConfig(url="mqtt://elsewhere"), is_uplink=False)
    assert (stranger.user, stranger.password) == (None, None)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "one line"), (b"a\nb\n", "one line"), (b"a\0b", "one line"), (b"\xff\xfe", "UTF-8"), (b"x" * 5000, "4096")],
    ids=["empty", "two lines", "nul", "binary", "large"],
)
def test_a_file_that_holds_no_line_is_refused(tmp_path, content, says):
    (tmp_path / "user").write_bytes(content)
    line = refusal(user_file=tmp_path / "user")
    assert says in line
    assert line.startswith("uplink.user_file: ")


def test_a_missing_file_is_named(tmp_path):
    assert refusal(user_file=tmp_path / "none") == (
        f"uplink.user_file: cannot read {tmp_path / 'none'}: No such file or directory"
    )


def test_a_pipe_in_place_of_a_file_holds_nothing_up(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "one line" in refusal(user_file=tmp_path / "pipe")


def test_a_password_without_a_user_is_refused(tmp_path):
    (tmp_path / "password").write_text("geheim")
    assert "no user" in refusal(password_file=tmp_path / "password")


def test_two_users_are_refused(tmp_path):
    (tmp_path / "user").write_text("anna")
    assert "names a user already" in refusal("mqtt://berta@broker", user_file=tmp_path / "user")


@pytest.mark.parametrize("words", [{"ca": "x"}, {"cert": "x"}, {"key": "x"}, {"server_name": "x"}, {"alpn": ("mqtt",)}])
def test_words_for_tls_are_refused_without_tls(words):
    assert "mqtts://" in refusal(**words)


def test_tls_checks_the_certificate_and_the_name_and_nothing_switches_that_off(authority):
    tls = address("mqtts://broker", ca=authority.cert).tls
    assert tls.verify_mode == ssl.CERT_REQUIRED
    assert tls.check_hostname
    assert tls.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert not [field for field in UplinkConfig.__struct_fields__ if "insecure" in field or "verify" in field]


def test_an_authority_of_ones_own_is_the_only_one(authority):
    assert len(address("mqtts://broker", ca=authority.cert).tls.get_ca_certs()) == 1


def test_the_name_in_the_certificate_may_be_another_than_the_host():
    assert address("mqtts://10.0.0.7").server_name == "10.0.0.7"
    assert address("mqtts://10.0.0.7", server_name="broker.example").server_name == "broker.example"


def test_a_client_certificate_is_taken_and_its_end_known(authority):
    pair = authority.issue("pi-7", ends=timedelta(days=3))
    found = address("mqtts://broker", ca=authority.cert, cert=pair.cert, key=pair.key)
    left = datetime.fromtimestamp(found.ends_unix_s, tz=timezone.utc) - datetime.now(timezone.utc)
    assert timedelta(days=2, hours=23) < left <= timedelta(days=3)


def test_the_end_of_a_certificate_after_2050_is_read(authority):
    pair = authority.issue("long", ends=timedelta(days=40 * 365))
    end = datetime.fromtimestamp(valid_until_s(pair.cert.read_text()), tz=timezone.utc)
    assert end.year == (datetime.now(timezone.utc) + timedelta(days=40 * 365)).year


@pytest.mark.parametrize("pem", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_what_is_no_certificate_has_no_known_end(pem):
    assert valid_until_s(pem) is None


def test_a_certificate_that_has_expired_is_no_reason_not_to_start(authority):
    pair = authority.issue("old", begins=-timedelta(days=9), ends=-timedelta(days=2))
    found = address("mqtts://broker", ca=authority.cert, cert=pair.cert, key=pair.key)
    assert found.ends_unix_s < datetime.now(timezone.utc).timestamp()


def test_a_key_of_another_certificate_is_refused(authority):
    one, other = authority.issue("one"), authority.issue("other")
    assert "does not fit" in refusal("mqtts://broker", cert=one.cert, key=other.key)


def test_an_encrypted_key_is_refused_and_nobody_is_asked(authority):
    pair = authority.issue("locked", password=b"geheim")
    assert "is encrypted" in refusal("mqtts://broker", cert=pair.cert, key=pair.key)


def test_files_that_are_no_pem_are_refused(authority, tmp_path):
    pair = authority.issue("pem")
    (tmp_path / "text").write_text("hello\n")
    assert "holds no certificate" in refusal("mqtts://broker", ca=tmp_path / "text")
    assert "holds no certificate" in refusal("mqtts://broker", cert=tmp_path / "text", key=pair.key)
    assert "holds no private key" in refusal("mqtts://broker", cert=pair.cert, key=tmp_path / "text")
    assert "holds no private key" in refusal("mqtts://broker", cert=pair.cert)
    assert "no certificate" in refusal("mqtts://broker", key=pair.key)


@pytest.mark.parametrize("key", ["ca", "cert"])
def test_missing_files_of_tls_are_named(key, tmp_path):
    line = refusal("mqtts://broker", **{key: tmp_path / "none"})
    assert line == f"uplink.{key}: cannot read {tmp_path / 'none'}: No such file or directory"


@pytest.mark.parametrize("name", ["ü", "x" * 256])
def test_alpn_is_short_ascii(name):
    assert "uplink.alpn" in refusal("mqtts://broker", alpn=(name,))
