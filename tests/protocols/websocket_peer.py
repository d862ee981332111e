"""RFC 6455 by section through the pair, with the client and the server of the `websockets` library on its two ends.

Prints the port of its server, reads one line with the addresses of the listeners under test, runs every case against each and prints
a line per case; ends with 1 if one fails.
"""
import asyncio
import hashlib
import os
import socket
import struct
import sys
import traceback

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus, NegotiationError

PATIENCE = 60
CASES = []


def case(section, name):
    def register(run):
        CASES.append((section, name, run))
        return run
    return register


class Server:
    """An app that echoes, unless the path asks for something else."""

    def __init__(self):
        # What became of connections, by their path: (code, reason) or a description.
        self.closed = {}
        self.ended = asyncio.Condition()
        self.subprotocol = None

    async def handle(self, ws):
        path = ws.request.path
        try:
            kind, *rest = path.strip("/").split("/")
            if kind == "close":
                await ws.close(int(rest[0]), "as asked: größer")
            elif kind == "abort":
                ws.transport.abort()
            elif kind == "ping":
                await (await ws.ping(b"from the server"))
                await ws.send("ponged")
            elif kind == "count":
                async for message in ws:
                    await ws.send(f"{type(message).__name__} {len(message)} {digest(message)}")
            elif kind == "push":
                for n in range(int(rest[0])):
                    await ws.send(str(n))
            elif kind == "fragments":
                async for message in ws.recv_streaming():
                    await ws.send(message)
            async for message in ws:
                await ws.send(message)
        except ConnectionClosed:
            pass
        finally:
            await ws.wait_closed()
            async with self.ended:
                self.closed[path] = (ws.close_code, ws.close_reason)
                self.ended.notify_all()

    async def end_of(self, path):
        async with self.ended:
            await asyncio.wait_for(self.ended.wait_for(lambda: path in self.closed), PATIENCE)
            return self.closed.pop(path)

    @staticmethod
    def check(connection, request):
        """The app's own word on a handshake."""
        if request.path.startswith("/refused"):
            return connection.respond(403, "not you\n")
        return None


def digest(message):
    return hashlib.sha256(message.encode() if isinstance(message, str) else message).hexdigest()


class Try:
    def __init__(self, server, address):
        self.server, self.address = server, address

    def to(self, path="/echo", **others):
        others.setdefault("compression", None)
        return connect(f"ws://{self.address}{path}", max_size=None, open_timeout=PATIENCE, close_timeout=PATIENCE, ping_interval=None, proxy=None, **others)

    async def raw(self, head):
        """A handshake in bytes; its answer's head, and the streams."""
        host, port = self.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.replace("\n", "\r\n").encode())
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE), reader, writer


GOOD = """GET {} HTTP/1.1
Host: server.shop
Connection: Upgrade
Upgrade: websocket
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Version: 13

"""


@case("1.3", "the handshake of the standard's own example")
async def _(t):
    head, _, writer = await t.raw(GOOD.format("/echo"))
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert b"\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n" in head.lower(), head
    writer.close()


@case("1.9", "a subprotocol is agreed on")
async def _(t):
    async with t.to(subprotocols=["soup.example.com", "chat.example.com"]) as ws:
        assert ws.subprotocol == "chat.example.com", ws.subprotocol


@case("4.1", "a subprotocol that the app does not know")
async def _(t):
    async with t.to(subprotocols=["other.example.com"]) as ws:
        assert ws.subprotocol is None, ws.subprotocol


@case("4.1", "the names of the handshake's fields are case-insensitive, as are their values")
async def _(t):
    head, _, writer = await t.raw(GOOD.format("/echo").replace("Upgrade: websocket", "UPGRADE: WebSocket").replace("Connection: Upgrade", "cOnNeCtIoN: keep-alive, uPgRaDe"))
    assert head.startswith(b"HTTP/1.1 101 "), head
    writer.close()


@case("4.2.1", "no key: the app's own word")
async def _(t):
    head, _, writer = await t.raw(GOOD.format("/echo").replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n", ""))
    assert head.startswith(b"HTTP/1.1 400 "), head
    writer.close()


@case("4.2.2", "another version: the app's own word")
async def _(t):
    head, _, writer = await t.raw(GOOD.format("/echo").replace("Version: 13", "Version: 14"))
    assert head.startswith(b"HTTP/1.1 400 ") and b"Server: Python" in head, head
    writer.close()


@case("4.2.2", "refused by the app, with its own words")
async def _(t):
    try:
        async with t.to("/refused"):
            raise AssertionError("refused, but open")
    except InvalidStatus as error:
        assert error.response.status_code == 403 and error.response.body == b"not you\n", error.response


@case("4.2.2", "a body with the handshake is refused")
async def _(t):
    head, _, writer = await t.raw(GOOD.format("/echo").replace("\n\n", "\nContent-Length: 5\n\nhello"))
    assert head.startswith(b"HTTP/1.1 400 "), head
    writer.close()


@case("4.2.1", "from HTTP/1.0 it is no upgrade")
async def _(t):
    head, _, writer = await t.raw(GOOD.format("/echo").replace("HTTP/1.1", "HTTP/1.0"))
    assert not head.startswith(b"HTTP/1.1 101 "), head
    writer.close()


@case("4.2.1", "from another method than GET it is refused")
async def _(t):
    head, _, writer = await t.raw(GOOD.format("/echo").replace("GET ", "POST "))
    assert head.startswith(b"HTTP/1.1 4"), head
    writer.close()


@case("5.1", "a frame that is not masked ends in 1002")
async def _(t):
    _, reader, writer = await t.raw(GOOD.format("/echo"))
    writer.write(b"\x81\x02hi")
    assert await close_code(reader) == 1002
    writer.close()


@case("5.2", "a reserved bit that nobody agreed on ends in 1002")
async def _(t):
    _, reader, writer = await t.raw(GOOD.format("/echo"))
    writer.write(masked(0xC1, b"hi"))
    assert await close_code(reader) == 1002
    writer.close()


@case("5.2", "every form of a length, as text and binary")
async def _(t):
    async with t.to("/count") as ws:
        for size in [0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 1 << 20]:
            for message in ["ü" * (size // 2) + "u" * (size % 2), os.urandom(size)]:
                await ws.send(message)
                expected = f"{type(message).__name__} {len(message)} {digest(message)}"
                assert await asyncio.wait_for(ws.recv(), PATIENCE) == expected


@case("5.2", "16 MiB there and back")
async def _(t):
    async with t.to() as ws:
        message = os.urandom(16 << 20)
        await ws.send(message)
        assert await asyncio.wait_for(ws.recv(), PATIENCE) == message


@case("5.2", "5000 small messages each way at once, in order")
async def _(t):
    async with t.to() as ws:
        async def send():
            for n in range(5000):
                await ws.send(str(n))
        sending = asyncio.create_task(send())
        for n in range(5000):
            assert await asyncio.wait_for(ws.recv(), PATIENCE) == str(n)
        await sending


@case("5.4", "fragments, some empty, arrive as one message")
async def _(t):
    async with t.to() as ws:
        await ws.send(["a", "", "bc", "", "d"])
        assert await ws.recv() == "abcd"
        await ws.send([b"\0", b"\1" * 70000, b""])
        assert await ws.recv() == b"\0" + b"\1" * 70000


@case("5.4", "control frames between fragments")
async def _(t):
    _, reader, writer = await t.raw(GOOD.format("/echo"))
    writer.write(masked(0x01, b"one ") + masked(0x89, b"now") + masked(0x00, b"two ") + masked(0x8A, b"unasked") + masked(0x80, b"three"))
    assert await frame(reader) == (0x8A, b"now")
    assert await frame(reader) == (0x81, b"one two three")
    writer.close()


@case("5.4", "a message within a fragmented one ends in 1002")
async def _(t):
    _, reader, writer = await t.raw(GOOD.format("/echo"))
    writer.write(masked(0x01, b"one ") + masked(0x81, b"two"))
    assert await close_code(reader) == 1002
    writer.close()


@case("5.4", "frames that come byte by byte")
async def _(t):
    _, reader, writer = await t.raw(GOOD.format("/echo"))
    for byte in masked(0x81, b"x" * 200):
        writer.write(bytes([byte]))
        await writer.drain()
    assert await frame(reader) == (0x81, b"x" * 200)
    writer.close()


@case("5.4", "what comes in the same write as the handshake")
async def _(t):
    host, port = t.address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(GOOD.format("/echo").replace("\n", "\r\n").encode() + masked(0x81, b"at once"))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert await asyncio.wait_for(frame(reader), PATIENCE) == (0x81, b"at once")
    writer.close()


for code in [1000, 1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4999]:
    @case("5.5.1, 7.4", f"the client closes with {code}")
    async def _(t, code=code):
        async with t.to(f"/echo/{code}") as ws:
            await ws.close(code, "größer")
            assert (ws.close_code, ws.close_reason) == (code, "größer"), (ws.close_code, ws.close_reason)
        assert await t.server.end_of(f"/echo/{code}") == (code, "größer")

    @case("5.5.1, 7.4", f"the server closes with {code}")
    async def _(t, code=code):
        async with t.to(f"/close/{code}") as ws:
            await asyncio.wait_for(ws.wait_closed(), PATIENCE)
            assert (ws.close_code, ws.close_reason) == (code, "as asked: größer"), (ws.close_code, ws.close_reason)


@case("5.5.1", "a close without a code")
async def _(t):
    _, reader, writer = await t.raw(GOOD.format("/echo/none"))
    writer.write(masked(0x88, b""))
    assert await frame(reader) == (0x88, b"")
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()
    assert (await t.server.end_of("/echo/none"))[0] == 1005


@case("5.5.2", "the client's ping comes back with what it held")
async def _(t):
    async with t.to() as ws:
        await asyncio.wait_for(await ws.ping(b"x" * 125), PATIENCE)
        await asyncio.wait_for(await ws.ping(b""), PATIENCE)


@case("5.5.2", "the server's ping does, too")
async def _(t):
    async with t.to("/ping") as ws:
        assert await asyncio.wait_for(ws.recv(), PATIENCE) == "ponged"


@case("5.5.3", "a pong that nobody asked for")
async def _(t):
    async with t.to() as ws:
        await ws.pong(b"unasked")
        await ws.send("still here")
        assert await ws.recv() == "still here"


@case("5.5", "a control frame over 125 bytes ends in 1002")
async def _(t):
    _, reader, writer = await t.raw(GOOD.format("/echo"))
    writer.write(masked(0x89, b"x" * 126))
    assert await close_code(reader) == 1002
    writer.close()


@case("6.2", "1000 messages of a server that only sends")
async def _(t):
    async with t.to("/push/1000") as ws:
        for n in range(1000):
            assert await asyncio.wait_for(ws.recv(), PATIENCE) == str(n)


@case("7.1.1", "a client that ends its half after its close gets the server's")
async def _(t):
    _, reader, writer = await t.raw(GOOD.format("/echo/half"))
    writer.write(masked(0x88, struct.pack(">H", 1000)))
    writer.write_eof()
    assert await frame(reader) == (0x88, struct.pack(">H", 1000))
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()
    assert (await t.server.end_of("/echo/half"))[0] == 1000


@case("7.1.5", "a client that goes without a close is 1006 to the server")
async def _(t):
    _, _, writer = await t.raw(GOOD.format("/echo/gone"))
    writer.close()
    assert (await t.server.end_of("/echo/gone"))[0] == 1006


@case("7.1.5", "a client that resets is 1006 to the server")
async def _(t):
    _, _, writer = await t.raw(GOOD.format("/echo/reset"))
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    assert (await t.server.end_of("/echo/reset"))[0] == 1006


@case("7.1.5", "a server that resets is 1006 to the client")
async def _(t):
    async with t.to("/abort") as ws:
        await asyncio.wait_for(ws.wait_closed(), PATIENCE)
        assert ws.close_code == 1006, ws.close_code


@case("8.1", "text that is not UTF-8 ends in 1007")
async def _(t):
    _, reader, writer = await t.raw(GOOD.format("/echo"))
    writer.write(masked(0x81, b"\xff\xfe"))
    assert await close_code(reader) == 1007
    writer.close()


@case("8.1", "a character in two fragments")
async def _(t):
    _, reader, writer = await t.raw(GOOD.format("/echo"))
    writer.write(masked(0x01, b"\xc3") + masked(0x80, b"\xbc"))
    assert await frame(reader) == (0x81, "ü".encode())
    writer.close()


@case("9.1, 7692", "permessage-deflate")
async def _(t):
    async with t.to(compression="deflate") as ws:
        assert any(e.name == "permessage-deflate" for e in ws.protocol.extensions), ws.protocol.extensions
        for message in ["a" * 1_000_000, "", os.urandom(100_000), "short"]:
            await ws.send(message)
            assert await asyncio.wait_for(ws.recv(), PATIENCE) == message
        await ws.send(["aa", "b" * 100_000, "c"])
        assert await asyncio.wait_for(ws.recv(), PATIENCE) == "aa" + "b" * 100_000 + "c"


@case("10.3", "50 at once, each its own")
async def _(t):
    async def one(n):
        async with t.to(f"/echo/at-once/{n}") as ws:
            for k in range(20):
                await ws.send(f"{n} {k}")
                assert await asyncio.wait_for(ws.recv(), PATIENCE) == f"{n} {k}"
    await asyncio.gather(*(one(n) for n in range(50)))


def masked(first, payload):
    """A client's frame."""
    mask = os.urandom(4)
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    return bytes([first]) + length + mask + bytes(b ^ mask[n % 4] for n, b in enumerate(payload))


async def frame(reader):
    """The server's next frame: its first byte, what it holds."""
    first, size = await asyncio.wait_for(reader.readexactly(2), PATIENCE)
    if size == 126:
        size, = struct.unpack(">H", await reader.readexactly(2))
    return first, await asyncio.wait_for(reader.readexactly(size), PATIENCE)


async def close_code(reader):
    first, payload = await frame(reader)
    assert first == 0x88, (first, payload)
    return struct.unpack(">H", payload[:2])[0]


def choose(ws, offered):
    """The app's choice of a subprotocol; none is no reason to refuse."""
    return "chat.example.com" if "chat.example.com" in offered else None


async def main():
    server = Server()
    async with serve(server.handle, "127.0.0.1", 0, process_request=server.check, select_subprotocol=choose, max_size=None, ping_interval=None) as listening:
        print(listening.sockets[0].getsockname()[1], flush=True)
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        failed = 0
        for address in line.split():
            for section, name, run in CASES:
                try:
                    await run(Try(server, address))
                    print(f"ok\t{section}\t{name}", flush=True)
                except Exception as error:
                    failed += 1
                    print(f"FAILED\t{section}\t{name}\t{error!r}\t{traceback.format_exc(limit=-1)!r}", flush=True)
        print(f"{len(CASES)} cases, {failed} failed")
    sys.exit(failed > 0)


asyncio.run(main())
