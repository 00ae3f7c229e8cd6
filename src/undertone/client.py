"""A thin client of the service: predict, timeline and live streams over the network.

REST needs nothing but Python: whoever asks a service has no use for what the service needs, and urllib does all that
these calls need of HTTP. Live streams need ``websockets`` (extra ``web``).
"""

import json
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

TIMEOUT_S = 300.0

Sound = str | os.PathLike[str] | bytes | BinaryIO


class ServiceError(Exception):
    """An answer that is an error.

    Attributes
    ----------
    status
        Of HTTP; 0 where there was no answer.
    code, limit
        As the service names them; ``limit`` is the setting that was met, or None.
    retry_after_s
        When to try again, or None where the same request would fail again.
    """

    def __init__(
        self, status: int, code: str, message: str, *, limit: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.limit = limit
        self.retry_after_s = retry_after_s


class Client:
    """A service at an address.

    Parameters
    ----------
    address
        As ``undertone serve`` prints it.
    token
        What the service asks for, if it does.
    timeout_s
        Seconds to wait for an answer.

    Examples
    --------
    >>> client = Client("http://localhost:8000")
    >>> client.predict("clip.wav")[0]["emotion"]  # doctest: +SKIP
    'happiness'
    """

    def __init__(self, address: str, *, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"{address!r} is no address of a service; give one as http://localhost:8000")
        self.address = address.rstrip("/")
        self.token = token
        self.timeout_s = timeout_s

    def predict(self, sounds: Sound | Sequence[Sound], *, model: str | None = None) -> list[dict[str, Any]]:
        """Return a row for each clip, in their order: filename, start_s, end_s, emotion, confidence, probs, error.

        Parameters
        ----------
        sounds
            A path, the bytes of a file or an open binary file, or several.

        Raises
        ------
        ServiceError
            If the service refuses. Clips that cannot be used are rows with an ``error``, even if all of them are.
        """
        if isinstance(sounds, str | os.PathLike | bytes) or hasattr(sounds, "read"):
            sounds = [sounds]  # type: ignore[list-item]
        try:
            answer = self._post("/v1/predict", sounds, model=model)  # type: ignore[arg-type]
        except _AllUnusableError as error:
            return error.rows
        return json.loads(answer)["predictions"]

    def timeline(
        self,
        sound: Sound,
        *,
        model: str | None = None,
        channels: Literal["mix", "split"] = "mix",
        format: str = "json",
    ) -> Any:
        """Return the timeline of a recording: a dict for ``"json"``, else the text of a file in this format.

        Parameters
        ----------
        channels
            ``"split"`` hears each channel on its own.
        format
            json, csv, jsonl, textgrid, vtt, audacity, rttm or html.

        Raises
        ------
        ServiceError
            If the service refuses, or the recording cannot be used.
        """
        text = self._post("/v1/timeline", [sound], model=model, channels=channels, format=format).decode()
        return json.loads(text) if format == "json" else text

    def explain(self, sound: Sound, *, emotion: str | None = None, model: str | None = None) -> dict[str, Any]:
        """Return which parts of a clip made the difference: emotion, prob, times_s, bands_hz, importance.

        Raises
        ------
        ServiceError
            If the service refuses, or the clip cannot be used.
        """
        return json.loads(self._post("/v1/explain", [sound], model=model, emotion=emotion))

    def stream(
        self,
        chunks: Iterable[bytes],
        *,
        sample_rate: int = 16_000,
        hop_s: float = 0.5,
        model: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield an update for every hop of live sound, as it comes.

        Parameters
        ----------
        chunks
            16-bit little-endian mono sound, in pieces of whole samples; sent from a thread as fast as they come.
        sample_rate
            Hz.

        Raises
        ------
        ServiceError
            If the service refuses or closes the stream.
        ImportError
            If ``websockets`` is not installed.
        """
        try:
            from websockets.exceptions import ConnectionClosed, InvalidHandshake
            from websockets.sync.client import connect
        except ImportError:
            raise ImportError("live streams need 'websockets'; run: pip install \"undertone[web]\"") from None
        query = {"sample_rate": sample_rate, "hop_s": hop_s} | ({"model": model} if model else {})
        address = f"ws{self.address.removeprefix('http')}/v1/stream?{urlencode(query)}"
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with connect(address, additional_headers=headers, open_timeout=self.timeout_s) as websocket:
                sender = threading.Thread(target=_send_all, args=(websocket, chunks), daemon=True)
                sender.start()
                for message in websocket:
                    update = json.loads(message)
                    if "error" in update:
                        raise ServiceError(0, update["error"]["code"], update["error"]["message"])
                    if "end" in update:
                        return
                    yield update
        except ConnectionClosed as error:
            reason = error.rcvd.reason if error.rcvd else "the connection broke off"
            raise ServiceError(0, "closed", reason or "the service closed the stream") from None
        except (InvalidHandshake, OSError) as error:
            raise ServiceError(0, "unreachable", f"{self.address} takes no stream: {error}") from None

    def models(self) -> dict[str, Any]:
        """Return the name of the default model, and what is served in short."""
        return json.loads(self._open("/v1/models"))

    def card(self, model: str) -> dict[str, Any]:
        """Return the card of a served model."""
        return json.loads(self._open(f"/v1/models/{quote(model, safe='')}"))

    def _post(self, path: str, sounds: Iterable[Sound], **query: str | None) -> bytes:
        boundary = uuid.uuid4().hex
        body = b"".join(_part(boundary, sound) for sound in sounds) + f"--{boundary}--\r\n".encode()
        given = {name: value for name, value in query.items() if value is not None}
        return self._open(f"{path}?{urlencode(given)}", body, f"multipart/form-data; boundary={boundary}")

    def _open(self, path: str, body: bytes | None = None, content_type: str | None = None) -> bytes:
        request = Request(self.address + path, data=body)
        if content_type:
            request.add_header("Content-Type", content_type)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urlopen(request, timeout=self.timeout_s) as response:
                return response.read()
        except HTTPError as error:
            raise _refusal(error.code, error.read(), error.headers.get("Retry-After")) from None
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ServiceError(0, "unreachable", f"{self.address} gives no answer: {reason}") from None


class _AllUnusableError(ServiceError):
    rows: list[dict[str, Any]]


def _refusal(status: int, body: bytes, retry_after: str | None) -> ServiceError:
    try:
        answer = json.loads(body)
        error = answer["error"]
        code, message, limit = error["code"], error["message"], error.get("limit")
    except (ValueError, KeyError, TypeError):
        return ServiceError(status, "unknown", f"answered with status {status}; is it an undertone service?")
    if "predictions" in answer:
        unusable = _AllUnusableError(status, code, message, limit=limit)
        unusable.rows = answer["predictions"]
        return unusable
    return ServiceError(status, code, message, limit=limit, retry_after_s=float(retry_after) if retry_after else None)


def _send_all(websocket: Any, chunks: Iterable[bytes]) -> None:
    """Send all sound and the end, unless the other side has closed: then the receiver says why."""
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed):
        for chunk in chunks:
            websocket.send(bytes(chunk))
        websocket.send('{"end": true}')


def _part(boundary: str, sound: Sound) -> bytes:
    """Return one file of a multipart form; bytes get a name that says nothing."""
    if isinstance(sound, bytes):
        name, content = "sound", sound
    elif isinstance(sound, str | os.PathLike):
        path = Path(sound)
        name, content = path.name, path.read_bytes()
    else:
        name, content = Path(str(getattr(sound, "name", "sound"))).name, sound.read()
    escaped = name.replace("\\", "%5C").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    header = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{escaped}"\r\n\r\n'
    return header.encode() + content + b"\r\n"
