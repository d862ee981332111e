"""One end of an HTTP/2 connection, frame by frame, on `hyperframe` and `hpack`: it keeps no rule by itself, so that
a peer can break each of them. Headers are (name, value) pairs in the order in which they are sent."""
import socket
import struct

import hpack
from hyperframe.frame import (
    ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# What a client's PING holds that asks whether all before it has been read.
MARK = b"the mark"
# How long a peer may take for anything: a hang is a failure, and two cores may be busy.
PATIENCE = 60

NO_ERROR, PROTOCOL, INTERNAL, FLOW_CONTROL, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
CALM = 11
CODES = ["NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
         "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
         "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"]

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20


def code_name(code):
    return CODES[code] if code < len(CODES) else hex(code)


def raw(kind, flags, stream, payload=b"", reserved=False):
    """Any frame at all."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream | (reserved << 31)) + payload


class Gone(Exception):
    """The other side closed the connection."""


class End:
    """One end of a connection."""

    def __init__(self, sock):
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.buffer = b""
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.block = None
        self.settings = {}
        self.acknowledged = 0
        self.goaway = None
        self.statuses = {}
        self.resets = {}
        self.bodies = {}
        self.ended = set()
        self.read_data = True

    def close(self):
        self.sock.close()

    def send(self, *parts):
        """Frames of hyperframe, or bytes. A connection that the other side has closed is seen when reading."""
        try:
            self.sock.sendall(b"".join(p if isinstance(p, bytes) else p.serialize() for p in parts))
        except OSError:
            pass

    def receive(self, count):
        while len(self.buffer) < count:
            try:
                more = self.sock.recv(65536)
            except (ConnectionResetError, BrokenPipeError):
                more = b""
            if not more:
                raise Gone()
            self.buffer += more
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def frame(self):
        """The next frame, with `headers` where it completes a header block. Its own duties are done: SETTINGS and PING are
        acknowledged, and windows are given back as long as `read_data` says so."""
        frame, length = Frame.parse_frame_header(memoryview(self.receive(9)))
        frame.parse_body(memoryview(self.receive(length)))
        if isinstance(frame, SettingsFrame):
            if "ACK" in frame.flags:
                self.acknowledged += 1
            else:
                self.settings.update(frame.settings)
                if SettingsFrame.HEADER_TABLE_SIZE in frame.settings:
                    self.encoder.header_table_size = frame.settings[SettingsFrame.HEADER_TABLE_SIZE]
                self.send(SettingsFrame(0, flags=["ACK"]))
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, GoAwayFrame):
            self.goaway = frame
        elif isinstance(frame, RstStreamFrame):
            self.resets[frame.stream_id] = frame.error_code
        elif isinstance(frame, DataFrame):
            self.bodies[frame.stream_id] = self.bodies.get(frame.stream_id, b"") + frame.data
            if "END_STREAM" in frame.flags:
                self.ended.add(frame.stream_id)
            if self.read_data and frame.flow_controlled_length:
                self.send(WindowUpdateFrame(0, frame.flow_controlled_length))
                if "END_STREAM" not in frame.flags:
                    self.send(WindowUpdateFrame(frame.stream_id, frame.flow_controlled_length))
        elif isinstance(frame, (HeadersFrame, ContinuationFrame)):
            self.block = (self.block or b"") + frame.data
            if isinstance(frame, HeadersFrame):
                self.ends = "END_STREAM" in frame.flags
            frame.headers, frame.ends = None, self.ends
            if "END_HEADERS" in frame.flags:
                frame.headers = self.decoder.decode(self.block, raw=True)
                self.block = None
                status = dict(frame.headers).get(b":status", b"").decode()
                if status and not status.startswith("1"):
                    self.statuses[frame.stream_id] = status
                if frame.ends:
                    self.ended.add(frame.stream_id)
        return frame

    def headers(self, stream, fields, end=True, flags=()):
        """A HEADERS frame with these fields."""
        flags = ["END_HEADERS", *(["END_STREAM"] if end else []), *flags]
        return HeadersFrame(stream, self.encode(fields), flags=flags)

    def encode(self, fields):
        return self.encoder.encode([(n.encode() if isinstance(n, str) else n, v.encode() if isinstance(v, str) else v)
                                    for n, v in fields])

    def data(self, stream, payload=b"", end=True):
        return DataFrame(stream, payload, flags=["END_STREAM"] if end else [])


class Client(End):
    """A client's end, with preface and settings exchanged."""

    def __init__(self, address, path, greet=True, settings=None):
        host, port = address.rsplit(":", 1)
        super().__init__(socket.create_connection((host, int(port)), PATIENCE))
        self.path = path
        if greet:
            self.send(PREFACE, SettingsFrame(0, settings or {}))
            while not self.settings or not self.acknowledged:
                self.frame()

    def request(self, *extra, method="GET", path=None, authority="server.shop", scheme="http"):
        """The fields of a good request."""
        return [(":method", method), (":scheme", scheme), (":path", path or self.path), (":authority", authority), *extra]

    def post(self, *extra, **others):
        return self.request(*extra, method="POST", **others)

    def outcome(self, of, marked):
        """What came: a word for the end of the connection, of the stream, or an answer; `ignored` once the mark is back and
        nothing else came of it. `marked`: nothing but the mark is waited for."""
        if marked:
            self.send(PingFrame(0, MARK))
        try:
            while True:
                if of in self.resets and not (of in self.ended and self.resets[of] == NO_ERROR):
                    return f"stream {code_name(self.resets[of])}"
                if of in self.ended:
                    # After a whole answer the rest of a request may be declined (8.1).
                    return f"answer {self.statuses.get(of)}"
                frame = self.frame()
                if isinstance(frame, GoAwayFrame) and frame.error_code != NO_ERROR:
                    try:
                        while True:
                            self.frame()
                    except Gone:
                        return f"connection {code_name(frame.error_code)}"
                if marked and isinstance(frame, PingFrame) and "ACK" in frame.flags and frame.opaque_data == MARK:
                    return "ignored"
        except Gone:
            return "closed"
        except TimeoutError:
            return "nothing"

    def ask(self, of, *extra, **others):
        """A good request on this stream, answered."""
        self.send(self.headers(of, self.request(*extra, **others)))
        return self.outcome(of, False)

    def answered(self, of):
        assert self.ask(of) == "answer 200", f"stream {of} is not answered"
        # What comes of it from here on is another matter.
        self.ended.discard(of)


def rst(stream, code=CANCEL):
    return RstStreamFrame(stream, code)
