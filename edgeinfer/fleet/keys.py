"""The publisher's private keys: each in a file of its own, encrypted, and moved away where it is not needed daily."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import KeyMismatchError
from securesystemslib.signer import CryptoSigner, SSlibKey

from edgeinfer.durable import replace_file
from edgeinfer.errors import OutputError, UsageError

VARIABLE = "EDGEINFER_FLEET_PASSPHRASE"

_PASSPHRASE_MIN, _PASSPHRASE_MAX = 12, 1024
_KEY_BYTES_MAX = 16 << 10

AskPassphrase = Callable[[str], bytes]
"""(what it is for) -> the passphrase. Raises UsageError."""


def passphrase_from(file: Path | None, *, is_new: bool = False) -> AskPassphrase:
    """From the file, else the variable EDGEINFER_FLEET_PASSPHRASE, else asked for at the terminal, once."""
    known: list[bytes] = []

    def ask(purpose: str) -> bytes:
        if not known:
            known.append(_checked(_stated(file) or _typed(purpose, is_new=is_new)))
        return known[0]

    return ask


def may_be_had(file: Path | None) -> bool:
    """Whether nobody has to type it."""
    return file is not None or VARIABLE in os.environ


class KeyFiles:
    """The keys by their names. elsewhere: further folders, where those lie that were moved away."""

    def __init__(self, folder: Path, ask: AskPassphrase, elsewhere: Sequence[Path] = ()) -> None:
        self.folder = folder
        self._folders = (folder, *elsewhere)
        self._ask = ask

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def make(self, name: str) -> CryptoSigner:
        """A new key, not yet in its place: see `settle`. Raises OutputError, UsageError."""
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(self._ask("the new keys"))
        )
        place = self._coming(name)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            replace_file(place, pem)
            place.chmod(0o600)
        except OSError as failed:
            raise OutputError(f"cannot write {place}: {failed.strerror}") from failed
        return CryptoSigner(private)

    def settle(self, name: str) -> None:
        """The new key takes the place of the one before it."""
        coming = self._coming(name)
        replace_file(self.folder / f"{name}.pem", coming.read_bytes())
        (self.folder / f"{name}.pem").chmod(0o600)
        coming.unlink()

    def signer(self, name: str, public: SSlibKey | None = None) -> CryptoSigner:
        """The key, decrypted. public: which one it must be. Raises UsageError."""
        path = self._find(name)
        if path is None:
            raise UsageError(
                f"the key {name}.pem is not in {', '.join(str(each) for each in self._folders)}",
                hint="--keys DIR names the folder that it was moved to",
            )
        private = self._private(path)
        try:
            return CryptoSigner(private, public)
        except (KeyMismatchError, ValueError) as other:
            raise UsageError(f"{path} is another key than the one that the root metadata name") from other

    def _private(self, path: Path) -> Ed25519PrivateKey:
        try:
            with path.open("rb") as file:
                pem = file.read(_KEY_BYTES_MAX)
            private = load_pem_private_key(pem, self._ask(str(path)))
        except OSError as unreadable:
            raise UsageError(f"cannot read {path}: {unreadable.strerror}") from unreadable
        except TypeError as plain:
            raise UsageError(f"{path} is not encrypted", hint="openssl pkcs8 -topk8 -in KEY -out KEY.new") from plain
        except ValueError as wrong:
            raise UsageError(f"{path} cannot be decrypted: is it the right passphrase?") from wrong
        if not isinstance(private, Ed25519PrivateKey):
            raise UsageError(f"{path} is no Ed25519 key")
        return private

    def _coming(self, name: str) -> Path:
        return self.folder / f"{name}.new.pem"

    def _find(self, name: str) -> Path | None:
        places = (folder / f"{name}.pem" for folder in self._folders)
        return next((place for place in places if place.is_file()), None)


def _stated(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(VARIABLE)
    try:
        with file.open(encoding="utf-8") as lines:
            return lines.read(_PASSPHRASE_MAX + 1).removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as unreadable:
        raise UsageError(f"cannot read the passphrase from {file}: {unreadable}") from unreadable


def _typed(purpose: str, *, is_new: bool) -> str:
    if not sys.stdin.isatty():
        raise UsageError(f"the passphrase of {purpose} is not known", hint=f"--passphrase-file FILE, or set {VARIABLE}")
    typed = getpass.getpass(f"Passphrase of {purpose}: ")
    if is_new and getpass.getpass("Once more: ") != typed:
        raise UsageError("these were two different passphrases")
    return typed


def _checked(text: str) -> bytes:
    if not _PASSPHRASE_MIN <= len(text) <= _PASSPHRASE_MAX or "\n" in text:
        raise UsageError(f"a passphrase is one line of {_PASSPHRASE_MIN} to {_PASSPHRASE_MAX} characters")
    return text.encode()
