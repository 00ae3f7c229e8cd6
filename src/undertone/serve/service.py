"""What the routes share: the models, the decoding processes, and the room that is left."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request

from undertone.serve.decoding import DecodePool
from undertone.serve.errors import Refused, Room
from undertone.serve.inference import Inference
from undertone.serve.metrics import Metrics
from undertone.serve.settings import Settings
from undertone.serve.uploads import MEGABYTE, Body, Upload, check_content_type, split_files


class Service:
    """One running service."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.inference = Inference(settings.model, threads=settings.threads)
        self.decoding = DecodePool(settings, has_room=self.inference.has_room, on_lost=self.metrics.lost_decoders.inc)
        self.uploads = Room("max_uploads_mb", int(settings.max_uploads_mb * MEGABYTE), "too much is being sent")
        self.requests = Room("max_requests", settings.max_requests, "too many requests at a time")
        self.jobs = Room("max_jobs", settings.max_jobs, "too many long recordings at a time")
        self.job_turn = asyncio.Lock()  # they run one by one
        self.streams = Room("max_streams", settings.max_streams, "too many live streams at a time")
        self.metrics.watch("undertone_requests_at_work", "Requests at work", lambda: self.requests.used)
        self.metrics.watch("undertone_upload_bytes", "Bodies in memory", lambda: self.uploads.used)
        self.metrics.watch("undertone_clips_waiting", "Decoded clips that wait", lambda: self.inference.n_waiting)
        self.metrics.watch("undertone_streams", "Live streams", lambda: self.streams.used)
        self.metrics.watch("undertone_decoders", "Decoding processes", lambda: len(self.decoding.pids))

    @asynccontextmanager
    async def running(self, _app: Any) -> AsyncIterator[None]:
        """Start the decoding processes; end them when the service stops."""
        await self.decoding.start()
        await asyncio.to_thread(self.inference.warm_up)
        try:
            yield
        finally:
            await self.decoding.close()
            await asyncio.to_thread(self.inference.close)

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[list[Upload]]:
        """Take a place among the requests at work, read the body and give its files."""
        boundary = check_content_type(request.headers.get("content-type"))
        with self.requests, Body(self.settings, self.uploads) as body:
            content = await body.read(request.receive, request.headers)
            yield split_files(content, boundary, max_files=self.settings.max_files)

    async def in_time(self, work: Awaitable[Any]) -> Any:
        """Await the work, or raise :class:`Refused` (408) when it takes too long."""
        seconds = self.settings.request_timeout_s
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError:
            raise Refused(
                408,
                "request_timeout",
                f"no answer after {seconds:g} s; send fewer or shorter files",
                limit="request_timeout_s",
                retry=True,
            ) from None
