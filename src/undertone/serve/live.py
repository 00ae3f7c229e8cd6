"""Live streams: 16-bit sound comes in over a WebSocket, an answer goes out every hop.

A stream that is refused gets ``{"error": {"code", "message"}}``; each is closed with a code and a reason: 1000 it ended
as asked, 1003 text where sound belongs, 1007 half a sample, 1008 a limit, a parameter or the token, 1009 a frame too
large, 1011 a fault of the service, 1012 the service stops, 1013 try again later.
Reading stops while an answer is computed or waits to be sent: whoever sends too fast, or reads too slowly, waits.
"""

import asyncio
import json
import math
import time
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from fastapi import FastAPI
from starlette.websockets import WebSocket, WebSocketDisconnect

from undertone.audio import SAMPLE_RATE, AudioError
from undertone.model_file import ModelFileError
from undertone.serve.errors import Refused
from undertone.serve.http import check_origin, check_token, headers_of, log
from undertone.serve.service import Service
from undertone.stream import HOP_S, Stream, Update

MIN_HOP_S = 0.1  # ten answers a second: each is a run of the network
MAX_REASON_BYTES = 123  # RFC 6455
PIECE_S = 1.0  # heard at once: a long frame does not keep others waiting
ROUTE = "/v1/stream"
_CODES = {429: 1013}  # all other refusals are 1008


class _Closed(Exception):
    """The stream is over: a code, and a reason for the other side."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.message = reason
        self.reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def add_streams(app: FastAPI, service: Service) -> None:
    """Add the route of live streams."""

    @app.websocket(ROUTE)
    async def stream(websocket: WebSocket) -> None:
        started_s = time.perf_counter()
        visitor = _Visitor(websocket, service)
        try:
            await websocket.accept()  # first: only then does a browser learn the reason of what follows
            await visitor.serve()
            closed = _Closed(1000)
        except _Closed as error:
            closed = error
        except WebSocketDisconnect as error:
            closed = _Closed(error.code)
        except Exception:
            log.exception("a fault of the service", extra={"fields": {"request_id": visitor.request_id}})
            closed = _Closed(1011, "a fault of the service")
        await visitor.leave(closed, time.perf_counter() - started_s)


class _Visitor:
    """One open stream."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self.websocket = websocket
        self.service = service
        self.request_id = uuid.uuid4().hex[:16]
        self.heard_s = 0.0

    async def serve(self) -> None:
        """Answer until the other side has ended; every other end is an exception."""
        try:
            stream = self._open()
            self.service.streams.take()
        except Refused as refused:
            self.service.metrics.refused.labels(refused.limit or refused.code).inc()
            raise _Closed(_CODES.get(refused.status, 1008), refused.message) from None
        try:
            while (chunk := await self._receive()) is not None:
                await self._hear(stream, chunk)
            await self._answer(await self.service.inference.run_clip(stream.finish))
            await self._send({"end": True})
        except (AudioError, ModelFileError) as error:
            raise _Closed(1008, str(error)) from None
        finally:
            self.service.streams.give_back()

    async def leave(self, closed: _Closed, seconds: float) -> None:
        """Close the connection, if it is open, and log what happened."""
        try:
            async with asyncio.timeout(1.0):
                if closed.message:  # in full: a reason has room for a line
                    error = {"code": "closed", "message": closed.message}
                    await self.websocket.send_text(json.dumps({"error": error}))
                await self.websocket.close(closed.code, closed.reason)
        except (RuntimeError, TimeoutError, WebSocketDisconnect):
            pass  # it is gone already
        self.service.metrics.requests.labels(ROUTE, str(closed.code)).inc()
        self.service.metrics.sound.labels(ROUTE).inc(self.heard_s)
        fields = {
            "request_id": self.request_id,
            "method": "WEBSOCKET",
            "route": ROUTE,
            "status": closed.code,
            "ms": round(seconds * 1000, 1),
            "sound_s": round(self.heard_s, 2),
        }
        log.info("stream", extra={"fields": fields})

    def _open(self) -> Stream:
        """Check who asks and for what."""
        scope = self.websocket.scope
        headers = headers_of(scope)
        check_origin(headers, self.service.settings)
        check_token(headers.get("authorization", ""), self.service.settings, scope["query_string"])
        query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        recognizer = self.service.inference.recognizer(query.get("model"))
        self._sample_rate = round(_number(query, "sample_rate", SAMPLE_RATE))
        hop_s = _number(query, "hop_s", HOP_S)
        if hop_s < MIN_HOP_S:
            raise Refused(422, "invalid_parameter", f"hop_s is {hop_s:g}; give {MIN_HOP_S:g} or more")
        try:
            return Stream(recognizer, sample_rate=self._sample_rate, hop_s=hop_s)
        except ValueError as error:
            raise Refused(422, "invalid_parameter", str(error)) from None

    async def _receive(self) -> np.ndarray | None:
        """Return the next piece of sound, (n_samples,) int16, or None at the end."""
        idle_s = self.service.settings.stream_idle_s
        try:
            async with asyncio.timeout(idle_s):
                message = await self.websocket.receive()
        except TimeoutError:
            raise _Closed(1008, f"nothing came for {idle_s:g} s (stream_idle_s)") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        if (text := message.get("text")) is not None:
            if _is_end(text):
                return None
            raise _Closed(1003, 'send sound as binary frames; the only text is {"end": true}')
        content = message.get("bytes") or b""
        if len(content) % 2:
            raise _Closed(1007, f"{len(content)} bytes: a frame holds 16-bit samples, two bytes each")
        return np.frombuffer(content, "<i2")

    async def _hear(self, stream: Stream, chunk: np.ndarray) -> None:
        self.heard_s += len(chunk) / self._sample_rate
        if self.heard_s > self.service.settings.max_stream_s:
            raise _Closed(1008, f"longer than {self.service.settings.max_stream_s:g} s (max_stream_s)")
        n_piece = round(PIECE_S * self._sample_rate)
        for start in range(0, len(chunk), n_piece):
            await self._answer(await self.service.inference.run_clip(stream.feed, chunk[start : start + n_piece]))

    async def _answer(self, updates: Iterable[Update]) -> None:
        for update in updates:
            await self._send(
                {
                    "start_s": round(update.start_s, 3),
                    "end_s": round(update.end_s, 3),
                    "emotion": update.emotion,
                    "confidence": round(update.confidence, 6),
                    "probs": {label: round(prob, 6) for label, prob in update.probs.items()},
                    "level_db": round(update.level_db, 1),
                }
            )

    async def _send(self, content: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self.service.settings.stream_idle_s):
                await self.websocket.send_text(json.dumps(content))
        except TimeoutError:
            raise _Closed(1008, "answers are not being read") from None


def _number(query: dict[str, str], name: str, default: float) -> float:
    text = query.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Refused(422, "invalid_parameter", f"{name} is {text!r:.40}; give a number")
    return value


def _is_end(text: str) -> bool:
    try:
        return json.loads(text) == {"end": True}
    except (ValueError, RecursionError):
        return False
