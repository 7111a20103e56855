"""Every error a caller can act on.

EdgeInferError                  exit code
├── UsageError                  2    change what was typed
│   └── OutputError             2    a place to write to that cannot be written
│       └── SpoolError          2    the uplink's spool takes nothing now: the same may be tried again later
│           └── SpoolLost       2    it was damaged, and set aside: open it anew
├── ModelError                  3    change the model, or say more about it
│   └── AmbiguousModel          3    say what the file does not: the message names the flag
├── DeviceNotFound              4    choose another device, or mend this one
│   └── RuntimeFailed           4    it took the model and then failed to compute with it
├── SourceError                 5    change the source
│   └── SourceLost              5    it was there and went away: may be opened again
├── ConfigError                 6    change the configuration file
└── UpdateError                 7    an update that could not be carried out: the same may be tried again later
    └── UpdateRefused           7    an update that must not be carried out: trying again gives the same

An error is one line for a person: what, its value, and in `hint` what to do about it.
"""

from __future__ import annotations

# As in `typing`, which takes longer to load than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class EdgeInferError(Exception):
    """Base of all errors of this package; `exit_code` is what the command ends with."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(EdgeInferError):
    """What was asked for makes no sense."""

    exit_code = 2


class OutputError(UsageError):
    """A place to write to that cannot be opened or no longer takes data.

    reader_is_gone: whoever read our stdout went away, which is the end of that output and no fault.
    """

    def __init__(self, message: str, *, hint: str | None = None, reader_is_gone: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.reader_is_gone = reader_is_gone


class SpoolError(OutputError):
    """The spool of the uplink cannot be opened or written: nothing was accepted, and trying again may help."""


class SpoolLost(SpoolError):
    """The spool was found damaged and set aside: what it held will not come, and it is to be opened anew."""


class ModelError(EdgeInferError):
    """A model or bundle that cannot be used."""

    exit_code = 3


class AmbiguousModel(ModelError):
    """The file does not say enough about itself; the message names the flag to give."""


class DeviceNotFound(EdgeInferError):
    """No device of that name can run this model here."""

    exit_code = 4


class RuntimeFailed(DeviceNotFound):
    """A device that took the model and then failed to compute with it."""


class SourceError(EdgeInferError):
    """A source that cannot be opened or read."""

    exit_code = 5


class SourceLost(SourceError):
    """A live source that delivered and then stopped: worth opening again."""


class ConfigError(EdgeInferError):
    """A configuration that says something impossible; the message starts with the path of the key."""

    exit_code = 6


class UpdateError(EdgeInferError):
    """An update that could not be carried out: nothing was changed, and trying again later may help."""

    exit_code = 7


class UpdateRefused(UpdateError):
    """An update that must not be carried out: it is not what was signed, not for this node, or below the floor."""
