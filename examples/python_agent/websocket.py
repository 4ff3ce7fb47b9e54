"""A WebSocket client (RFC 6455): as much of one as an agent needs, text messages only."""

import asyncio
import base64
import hashlib
import os
import ssl
import struct
from urllib.parse import urlsplit

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class LinkEnded(Exception):
    """The link is gone; the session is not. Try again after a wait."""

    def __init__(self, why, wait_at_least=0.0):
        super().__init__(why)
        self.wait_at_least = wait_at_least


class WebSocket:
    """One connection. Sending and receiving may go on at once; two receivers may not."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, url, path, subprotocol, ca_file=None):
        """Connects to `ws://host:port` or `wss://host:port`, with TLS 1.3 on the latter."""
        parts = urlsplit(url)
        context = None
        if parts.scheme == "wss":
            context = ssl.create_default_context(cafile=ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        port = parts.port or (443 if context else 80)
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
        try:
            await cls._upgrade(reader, writer, parts.netloc, path, subprotocol)
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer)

    @staticmethod
    async def _upgrade(reader, writer, host, path, subprotocol):
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.split("\r\n")
        fields = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        if status.split(" ")[1] != "101":
            retry_after = fields.get("retry-after", "")
            raise LinkEnded(f"refused with {status!r}", float(retry_after) if retry_after.isdigit() else 0.0)
        accept = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        if fields.get("sec-websocket-accept") != base64.b64encode(accept).decode():
            raise LinkEnded("not a WebSocket server: its Sec-WebSocket-Accept is wrong")
        if fields.get("sec-websocket-protocol") != subprotocol:
            raise LinkEnded(f"the server does not speak {subprotocol}")

    async def send(self, text: str):
        """Sends one message."""
        await self._send_frame(TEXT, text.encode())

    async def receive(self) -> str:
        """The next message, however many pieces it came in; answers pings meanwhile."""
        message = bytearray()
        while True:
            is_last, opcode, data = await self._receive_frame(MAX_MESSAGE_BYTES - len(message))
            if opcode == PING:
                await self._send_frame(PONG, data)
            elif opcode == CLOSE:
                code = struct.unpack("!H", data[:2])[0] if len(data) >= 2 else None
                raise LinkEnded(f"closed with {code}: {data[2:].decode(errors='replace')}")
            elif opcode == BINARY:
                raise LinkEnded("a binary message, though JSON was agreed")
            elif opcode != PONG:
                message += data
                if is_last:
                    return message.decode()

    async def close(self):
        """Says goodbye and closes, without waiting for an answer."""
        try:
            await self._send_frame(CLOSE, struct.pack("!H", 1000))
        except (LinkEnded, OSError):
            pass
        self._writer.close()

    async def _receive_frame(self, most):
        try:
            first, second = await self._reader.readexactly(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
            if first & 0x70 or second & 0x80:
                raise LinkEnded("a frame with reserved bits or a mask")
            if length > most:
                raise LinkEnded("a message over the limit")
            return bool(first & 0x80), first & 0x0F, await self._reader.readexactly(length)
        except asyncio.IncompleteReadError:
            raise LinkEnded("broken off without a close frame") from None

    async def _send_frame(self, opcode, data):
        """Writes a whole frame at once, masked, as every client must."""
        length = len(data)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        mask = os.urandom(4)
        stretched = (mask * (length // 4 + 1))[:length]
        masked = int.from_bytes(data, "big") ^ int.from_bytes(stretched, "big")
        self._writer.write(head + mask + masked.to_bytes(length, "big"))
        await self._writer.drain()
