"""Every setting of the service, once: its default, its bounds and what it is for.

The options of ``undertone serve`` and the environment variables (``UNDERTONE_`` and the name in capitals) are made from
these fields.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from undertone.model_file import DEFAULT_MODEL

ENVIRONMENT_PREFIX = "UNDERTONE_"
DECODER_MB = 192  # addresses that a decoding process takes beside two copies of the file


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it."""


def _setting(default: Any, text: str, *, at_least: float | None = None) -> Any:
    return field(default=default, metadata={"help": text, "at_least": at_least})


@dataclass(frozen=True, slots=True)
class Settings:
    """What the service serves and how much of it; the defaults suit two processors and 2 GB of memory.

    A limit that a request meets is named in the answer, as ``error.limit``, by its name here.

    Raises
    ------
    SettingsError
        If a value is out of range.
    """

    model: tuple[str, ...] = _setting((DEFAULT_MODEL,), "An installed model or a model file; the first is the default.")
    token: str | None = _setting(None, "Whoever asks must send it: Authorization: Bearer TOKEN.")
    cors_origin: tuple[str, ...] = _setting((), "A web site whose pages may use the service, as https://example.org.")

    max_upload_mb: float = _setting(64.0, "Megabytes of one request.", at_least=0.001)
    max_uploads_mb: float = _setting(512.0, "Megabytes of all requests at a time.", at_least=0.001)
    max_files: int = _setting(64, "Files in one request.", at_least=1)
    max_clip_s: float = _setting(600.0, "Seconds of sound in a clip.", at_least=0.1)
    max_timeline_s: float = _setting(
        14_400.0, "Seconds of sound in a long recording, of all channels where they are split.", at_least=0.1
    )
    max_requests: int = _setting(256, "Requests at work at a time.", at_least=1)
    max_jobs: int = _setting(4, "Long recordings and explanations at work or waiting at a time.", at_least=1)
    max_streams: int = _setting(64, "Live streams at a time.", at_least=1)
    head_timeout_s: float = _setting(10.0, "Seconds to send the head of a request.", at_least=0.1)
    upload_timeout_s: float = _setting(60.0, "Seconds to send its body.", at_least=0.1)
    request_timeout_s: float = _setting(300.0, "Seconds to answer a request once it is sent.", at_least=0.1)
    stream_idle_s: float = _setting(30.0, "Seconds without sound after which a live stream is closed.", at_least=0.1)
    max_stream_s: float = _setting(3_600.0, "Seconds of sound in a live stream.", at_least=1)
    decode_timeout_s: float = _setting(30.0, "Seconds, of a clock and of a processor, to decode a file.", at_least=0.1)
    decode_memory_mb: int = _setting(512, "Megabytes of addresses of a decoding process.", at_least=1)
    decode_workers: int = _setting(2, "Decoding processes; a long recording keeps one.", at_least=1)
    threads: int = _setting(0, "Threads that run the network; 0: one per processor.", at_least=0)
    stop_timeout_s: float = _setting(30.0, "Seconds that running requests get when the service is stopped.", at_least=0)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value, lowest = getattr(self, entry.name), entry.metadata["at_least"]
            if lowest is not None and not (math.isfinite(value) and value >= lowest):
                raise SettingsError(f"{entry.name} is {value}; give {lowest:g} or more")
        if not self.model:
            raise SettingsError("model is empty; name at least one")
        if self.token is not None and (len(self.token) < 8 or not self.token.isascii() or not self.token.isprintable()):
            raise SettingsError("token is too easy to guess or to mistype; give 8 or more printable ASCII characters")
        if self.decode_memory_mb < (needed := math.ceil(2 * self.max_upload_mb + DECODER_MB)):
            raise SettingsError(f"decode_memory_mb is too little for files of max_upload_mb; give {needed} or more")
        if self.max_uploads_mb < self.max_upload_mb:
            raise SettingsError("max_uploads_mb, of all requests, is below max_upload_mb, of one")

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, *, overrides: Mapping[str, Any] | None = None
    ) -> "Settings":
        """Read what is set as ``UNDERTONE_MAX_FILES`` and so on; several models or origins are separated by commas.

        Parameters
        ----------
        overrides
            Settings that come before those of the environment.

        Raises
        ------
        SettingsError
            If a value has the wrong type or is out of range.

        Examples
        --------
        >>> Settings.from_environment({"UNDERTONE_MAX_FILES": "3"}).max_files
        3
        """
        values = dict(overrides or {})
        for entry in dataclasses.fields(cls):
            name = environment_name(entry.name)
            if entry.name not in values and (text := environment.get(name)):
                values[entry.name] = _parse(name, text, entry.default)
        return cls(**values)


def environment_name(setting: str) -> str:
    """Return the environment variable of a setting.

    Examples
    --------
    >>> environment_name("max_files")
    'UNDERTONE_MAX_FILES'
    """
    return ENVIRONMENT_PREFIX + setting.upper()


def _parse(name: str, text: str, default: object) -> Any:
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if default is None:
        return text
    try:
        return int(text) if isinstance(default, int) else float(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise SettingsError(f"{name} is {text!r}; give {kind}") from None
