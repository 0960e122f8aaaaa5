"""A TCP relay between the nodes and a SuperLink that counts the bytes in each direction.

It counts the payload of TCP: TLS and HTTP are included, IP and TCP headers are not. It does not interpret the bytes, so
it needs no key and works with TLS too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from pathlib import Path


class ByteCounter:
    """Counts the bytes between the nodes and a SuperLink; use it as a context manager.

    Args:
        target: Port of the SuperLink on this machine.
        port: Port to listen on; 0 takes a free one.
        log: File that gets one line of JSON with the totals for every second with traffic.

    Attributes:
        port: The port it listens on.
        up: Bytes from the nodes so far.
        down: Bytes to the nodes so far.
    """

    def __init__(self, target: int, port: int = 0, log: Path | None = None) -> None:
        self._target, self.port, self._log = target, port, log
        self.up = self.down = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> ByteCounter:
        """Start to listen."""
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._note()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        ticker = self._loop.create_task(self._tick())
        self._ready.set()
        self._loop.run_forever()
        ticker.cancel()
        server.close()
        for writer in list(self._writers):  # readers then see the end of their streams
            writer.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0.1))
        self._loop.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # the SuperLink is down: the node notices the closed connection
            writer.close()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._pass(reader, far_writer, up=True), self._pass(far_reader, writer, up=False))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                writer.write(data)
                await writer.drain()
        self._writers.discard(writer)
        with contextlib.suppress(OSError):
            writer.close()

    async def _tick(self) -> None:
        seen = (0, 0)
        while True:
            await asyncio.sleep(1.0)
            if seen != (self.up, self.down):
                seen = (self.up, self.down)
                self._note()

    def _note(self) -> None:
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": time.time(), "up": self.up, "down": self.down}) + "\n")
