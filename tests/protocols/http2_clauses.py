"""RFC 9113 (and RFC 7541) by clause: what a client can do wrong, frame by frame, and what must come of it.

Prints the port of its app, reads one line with the addresses of the listeners under test, runs every case against each and prints
a line per case: its section, what it is, what was expected, what came. Ends with 1 if anything is not as it must be.

The list of sections is that of the public h2spec; the words of what must come are those of the RFC:
  connection(CODE)   GOAWAY with this code, then the connection is closed
  stream(CODE)       RST_STREAM with this code; or, by 5.4.1, the same as an error of the connection
  malformed          stream(PROTOCOL_ERROR), or an answer 400 (8.1.1), and the app has not received it
  ignored            the connection goes on as if nothing had been
  answer(STATUS)     an answer with this status
"""
import socket
import struct
import sys

from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame, PriorityFrame, SettingsFrame, WindowUpdateFrame

from frames import *
from http2_app import App

CASES = []


def case(section, name, *expected, stream=1):
    def register(run):
        CASES.append((section, name, expected, stream, run))
        return run
    return register


def connection(*codes):
    return [f"connection {code_name(code)}" for code in codes]


def stream(*codes):
    return [f"{kind} {code_name(code)}" for code in codes for kind in ("stream", "connection")]


def answer(*statuses):
    return [f"answer {status}" for status in statuses]


IGNORED = ["ignored"]
MALFORMED = [*stream(PROTOCOL), "answer 400"]

# What the `h2` crate does otherwise, and why that stays. A case that is here must come out as it says.
ONE_CODE = "the crate tells of every frame that it cannot read by PROTOCOL_ERROR; the connection ends as it must"
KNOWN = {
    ("3.4", "another frame than SETTINGS after the preface"):
        ("answer 200", "the crate goes by the defaults until SETTINGS come, which is what an empty SETTINGS says"),
    ("5.1 half-closed (remote)", "DATA"): ("connection PROTOCOL_ERROR", ONE_CODE),
    ("5.1 half-closed (remote)", "HEADERS"): ("connection PROTOCOL_ERROR", ONE_CODE),
    ("8.1", "DATA after the trailers"): ("connection PROTOCOL_ERROR", ONE_CODE),
    ("6.5.2", "INITIAL_WINDOW_SIZE over 2^31 - 1"): ("connection PROTOCOL_ERROR", ONE_CODE),
    ("8.3", "a pseudo-header in the trailers"):
        ("answer 200, and the app received it", "the crate drops it before we see the trailers: the app gets the request without it"),
    ("8.3.1", "a :path with a fragment"):
        ("answer 200", "the crate cuts it off before anybody decides: policy and app see the same path without it"),
}
for section, name in [
    ("4.3", "a header block that is not HPACK"), ("4.3", "a header block that ends within a field"),
    ("HPACK 2.3.3", "an index beyond both tables"), ("HPACK 4.2", "a table size update at the end of a block"),
    ("HPACK 5.1", "an integer without end"), ("HPACK 5.2", "Huffman padding of more than 7 bits"),
    ("HPACK 5.2", "Huffman padding that is not ones"), ("HPACK 5.2", "a Huffman text with EOS"), ("HPACK 6.1", "index 0"),
    ("HPACK 6.3", "a table size over the setting"),
    ("5.4.1", "an error of the connection is told by GOAWAY, and ends it"),
    ("5.4.1", "the GOAWAY names the last stream that was taken"), ("6.3", "PRIORITY of 4 bytes"),
    ("6.4", "RST_STREAM of 3 bytes"), ("6.5", "a SETTINGS acknowledgement with content"), ("6.5", "SETTINGS of 3 bytes"),
    ("6.7", "PING of 6 bytes"), ("6.9", "WINDOW_UPDATE of 3 bytes"),
]:
    KNOWN[section, name] = ("connection PROTOCOL_ERROR", ONE_CODE)


# 3.4 The preface

@case("3.4", "a good preface and an empty SETTINGS", answer(200))
def _(c):
    c.send(c.headers(1, c.request()))


@case("3.4", "a preface that is another text", ["closed"], connection(PROTOCOL))
def _(c):
    c.close()
    c.__init__(c.address, c.path, greet=False)
    c.send(b"INVALID CONNECTION PREFACE\r\n\r\n", SettingsFrame(0))


@case("3.4", "a preface that changes in its last byte", ["closed"], connection(PROTOCOL))
def _(c):
    c.close()
    c.__init__(c.address, c.path, greet=False)
    c.send(PREFACE[:-1] + b"\r", SettingsFrame(0))


@case("3.4", "another frame than SETTINGS after the preface", connection(PROTOCOL), ["closed"])
def _(c):
    c.close()
    c.__init__(c.address, c.path, greet=False)
    c.send(PREFACE, PingFrame(0, b"12345678"), c.headers(1, c.request()))


@case("3.4", "the preface byte by byte", answer(200))
def _(c):
    c.close()
    c.__init__(c.address, c.path, greet=False)
    for byte in PREFACE + SettingsFrame(0).serialize():
        c.send(bytes([byte]))
    c.send(c.headers(1, c.request()))


# 4 Frames

@case("4.1", "a frame of an unknown type", IGNORED, stream=None)
def _(c):
    c.send(raw(0x16, 0, 0, b"12345678"))


@case("4.1", "undefined flags on a PING", IGNORED, stream=None)
def _(c):
    c.send(raw(PING, 0x16, 0, b"12345678"))


@case("4.1", "the reserved bit set on a PING", IGNORED, stream=None)
def _(c):
    c.send(raw(PING, 0, 0, b"12345678", reserved=True))


@case("4.1", "the reserved bit set on a HEADERS", answer(200))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, c.encode(c.request()), reserved=True))


@case("4.2", "DATA of 2^14 bytes", answer(200))
def _(c):
    c.send(c.headers(1, c.post(), end=False), c.data(1, b"x" * 16384))


@case("4.2", "DATA over SETTINGS_MAX_FRAME_SIZE", stream(FRAME_SIZE))
def _(c):
    c.send(c.headers(1, c.post(), end=False), raw(DATA, END_STREAM, 1, b"x" * (c.largest() + 1)))


@case("4.2", "HEADERS over SETTINGS_MAX_FRAME_SIZE", connection(FRAME_SIZE))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, b"\0" * (c.largest() + 1)))


@case("4.2", "SETTINGS over SETTINGS_MAX_FRAME_SIZE", connection(FRAME_SIZE), stream=None)
def _(c):
    c.send(raw(SETTINGS, 0, 0, b"\x00\xff\0\0\0\0" * ((c.largest() + 6) // 6)))


@case("4.3", "a header block that is not HPACK", connection(COMPRESSION))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\xff\xff\xff\xff"))


@case("4.3", "a header block that ends within a field", connection(COMPRESSION))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, c.encode(c.request()) + b"\x00\x85ab"))


@case("4.3", "PRIORITY inside a header block", connection(PROTOCOL))
def _(c):
    c.send(raw(HEADERS, END_STREAM, 1, c.encode(c.request())), PriorityFrame(1, 0, 255), raw(CONTINUATION, END_HEADERS, 1))


@case("4.3", "HEADERS of another stream inside a header block", connection(PROTOCOL))
def _(c):
    block = c.encode(c.request())
    c.send(raw(HEADERS, END_STREAM, 1, block), raw(HEADERS, END_STREAM | END_HEADERS, 3, block))


@case("4.3", "the connection's end inside a header block", ["closed"], connection(PROTOCOL))
def _(c):
    c.send(raw(HEADERS, END_STREAM, 1, c.encode(c.request())))
    c.sock.shutdown(socket.SHUT_WR)


# RFC 7541

@case("HPACK 2.3.3", "an index beyond both tables", connection(COMPRESSION))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, c.encode(c.request()) + b"\xff\x80\x01"))


@case("HPACK 4.2", "a table size update at the end of a block", connection(COMPRESSION))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, c.encode(c.request()) + b"\x20"))


@case("HPACK 4.2", "a table size update at the front of a block", answer(200))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, b"\x20" + Plain.block(c.request())))


@case("HPACK 5.1", "an integer without end", connection(COMPRESSION))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, c.encode(c.request()) + b"\xff" + b"\xff" * 12 + b"\x01"))


@case("HPACK 5.2", "Huffman padding of more than 7 bits", connection(COMPRESSION))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, c.encode(c.request()) + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"))


@case("HPACK 5.2", "Huffman padding that is not ones", connection(COMPRESSION))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, c.encode(c.request()) + b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"))


@case("HPACK 5.2", "a Huffman text with EOS", connection(COMPRESSION))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1,
               c.encode(c.request()) + b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f"))


@case("HPACK 6.1", "index 0", connection(COMPRESSION))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, c.encode(c.request()) + b"\x80"))


@case("HPACK 6.2", "every kind of literal, plain and Huffman", answer(200))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, Plain.block(c.request()) + b"\x00\x03x-a\x01b" + b"\x10\x03x-b\x01c" + b"\x40\x03x-c\x01d"
               + b"\xbe"))


@case("HPACK 6.3", "a table size over the setting", connection(COMPRESSION))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, b"\x3f\xe1\xff\x03" + c.encode(c.request())))


# 5.1 The states of a stream

@case("5.1 idle", "DATA", connection(PROTOCOL))
def _(c):
    c.send(c.data(1, b"test"))


@case("5.1 idle", "RST_STREAM", connection(PROTOCOL))
def _(c):
    c.send(rst(1))


@case("5.1 idle", "WINDOW_UPDATE", connection(PROTOCOL))
def _(c):
    c.send(WindowUpdateFrame(1, 100))


@case("5.1 idle", "CONTINUATION", connection(PROTOCOL))
def _(c):
    c.send(raw(CONTINUATION, END_HEADERS, 1, c.encode(c.request())))


@case("5.1 idle", "PRIORITY", IGNORED, stream=None)
def _(c):
    c.send(PriorityFrame(1, 0, 255))


@case("5.1 half-closed (remote)", "DATA", stream(STREAM_CLOSED))
def _(c):
    c.send(c.headers(1, c.request()), c.data(1, b"test"))


@case("5.1 half-closed (remote)", "HEADERS", stream(STREAM_CLOSED))
def _(c):
    c.send(c.headers(1, c.request()), c.headers(1, [("x-more", "1")]))


@case("5.1 half-closed (remote)", "CONTINUATION", connection(STREAM_CLOSED, PROTOCOL), stream(STREAM_CLOSED))
def _(c):
    c.send(c.headers(1, c.request()), raw(CONTINUATION, END_HEADERS, 1, c.encode([("x-more", "1")])))


@case("5.1 half-closed (remote)", "WINDOW_UPDATE and PRIORITY", answer(200))
def _(c):
    c.send(c.headers(1, c.request()), WindowUpdateFrame(1, 100), PriorityFrame(1, 0, 255))


@case("5.1 half-closed (remote)", "RST_STREAM", IGNORED)
def _(c):
    c.send(c.headers(1, c.request()), rst(1))
    return "marked"


@case("5.1 closed", "DATA after RST_STREAM", stream(STREAM_CLOSED))
def _(c):
    c.send(c.headers(1, c.post(), end=False), rst(1), c.data(1, b"test"))
    return "marked"


@case("5.1 closed", "HEADERS after RST_STREAM", stream(STREAM_CLOSED, PROTOCOL))
def _(c):
    c.send(c.headers(1, c.post(), end=False), rst(1), c.headers(1, c.post()))
    return "marked"


@case("5.1 closed", "CONTINUATION after RST_STREAM", connection(STREAM_CLOSED, PROTOCOL))
def _(c):
    c.send(c.headers(1, c.post(), end=False), rst(1), raw(CONTINUATION, END_HEADERS, 1, c.encode([("x-more", "1")])))


@case("5.1 closed", "DATA after END_STREAM both ways", stream(STREAM_CLOSED))
def _(c):
    c.answered(1)
    c.send(c.data(1, b"test"))
    return "marked"


@case("5.1 closed", "HEADERS after END_STREAM both ways", stream(STREAM_CLOSED), connection(PROTOCOL))
def _(c):
    c.answered(1)
    c.send(c.headers(1, c.request()))
    return "marked"


@case("5.1 closed", "CONTINUATION after END_STREAM both ways", connection(STREAM_CLOSED, PROTOCOL))
def _(c):
    c.answered(1)
    c.send(raw(CONTINUATION, END_HEADERS, 1, c.encode([("x-more", "1")])))


@case("5.1 closed", "PRIORITY, WINDOW_UPDATE and RST_STREAM after END_STREAM both ways", IGNORED)
def _(c):
    c.answered(1)
    c.send(PriorityFrame(1, 0, 255), WindowUpdateFrame(1, 100), rst(1))
    return "marked"


@case("5.1.1", "an even stream", connection(PROTOCOL), stream=2)
def _(c):
    c.send(c.headers(2, c.request()))


@case("5.1.1", "stream 0", connection(PROTOCOL), stream=None)
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 0, c.encode(c.request())))


@case("5.1.1", "a stream below one that was opened", connection(PROTOCOL), stream(STREAM_CLOSED), stream=3)
def _(c):
    c.answered(5)
    c.send(c.headers(3, c.request()))


@case("5.1.1", "streams that are skipped", answer(200), stream=1001)
def _(c):
    c.answered(1)
    c.send(c.headers(1001, c.request()))


@case("5.1.2", "more streams than SETTINGS_MAX_CONCURRENT_STREAMS", stream(REFUSED, PROTOCOL), stream="last")
def _(c):
    limit = c.settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
    c.send(*(c.headers(1 + 2 * n, c.post(), end=False) for n in range(limit + 1)))
    return 1 + 2 * limit


@case("5.2", "more DATA on a stream than its window", stream(FLOW_CONTROL))
def _(c):
    window = c.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, 65535)
    c.send(c.headers(1, c.post(path="/held"), end=False), c.headers(3, c.post(path="/held"), end=False))
    # More than the windows of everybody on the way hold, while the answer is not read.
    for _ in range(window // 16384 + 1):
        c.send(*(raw(DATA, 0, 1, b"x" * 16384) for _ in range(64)))


# 5.3 Priority is deprecated: its signals are parsed and mean nothing

@case("5.3", "HEADERS that depend on another stream", answer(200))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM | PRIORITIZED, 1, struct.pack(">IB", 3 | 1 << 31, 255) + c.encode(c.request())))


@case("5.3", "HEADERS that depend on themselves", answer(200), stream(PROTOCOL))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM | PRIORITIZED, 1, struct.pack(">IB", 1, 255) + c.encode(c.request())))


@case("5.3", "PRIORITY that depends on itself", IGNORED, stream(PROTOCOL))
def _(c):
    c.send(PriorityFrame(1, 1, 255))
    return "marked"


# 5.4 Errors

@case("5.4.1", "an error of the connection is told by GOAWAY, and ends it", connection(FRAME_SIZE), stream=None)
def _(c):
    c.send(raw(PING, 0, 0, b"short"))


@case("5.4.1", "the GOAWAY names the last stream that was taken", connection(FRAME_SIZE))
def _(c):
    c.answered(1)
    c.answered(3)
    c.send(raw(PING, 0, 0, b"short"))
    came = c.outcome(5, False)
    assert c.goaway.last_stream_id == 3, c.goaway
    return came


@case("5.4.2", "an error of a stream leaves the others alone", answer(200), stream=3)
def _(c):
    c.send(c.headers(1, c.post(), end=False), c.headers(3, c.post(), end=False))
    c.send(WindowUpdateFrame(1, 2**31 - 1))
    assert c.outcome(1, False) == "stream FLOW_CONTROL_ERROR"
    c.send(c.data(3, b"test"))


@case("5.5", "an extension frame on a stream", answer(200))
def _(c):
    c.send(c.headers(1, c.post(), end=False), raw(0xbe, 0xff, 1, b"extension"), c.data(1, b"test"))


@case("5.5", "an extension frame inside a header block", connection(PROTOCOL))
def _(c):
    c.send(raw(HEADERS, END_STREAM, 1, c.encode(c.request())), raw(0xbe, 0, 1, b"extension"), raw(CONTINUATION, END_HEADERS, 1))


# 6 The frames

@case("6.1", "DATA on stream 0", connection(PROTOCOL), stream=None)
def _(c):
    c.send(raw(DATA, END_STREAM, 0, b"test"))


@case("6.1", "DATA padded by as much as there is", connection(PROTOCOL))
def _(c):
    c.send(c.headers(1, c.post(), end=False), raw(DATA, END_STREAM | PADDED, 1, b"\x05test"))


@case("6.1", "DATA padded, and empty", connection(PROTOCOL, FRAME_SIZE))
def _(c):
    c.send(c.headers(1, c.post(), end=False), raw(DATA, END_STREAM | PADDED, 1))


@case("6.1", "padded DATA arrives without its padding", answer(200))
def _(c):
    c.send(c.headers(1, c.post(), end=False), raw(DATA, END_STREAM | PADDED, 1, b"\x06test\0\0\0\0\0\0"))
    came = c.outcome(1, False)
    assert [r[1] for r in c.app.saw(c.path)] == [b"test"]
    return came


@case("6.2", "HEADERS on stream 0", connection(PROTOCOL), stream=None)
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 0, c.encode(c.request())))


@case("6.2", "HEADERS padded by more than there is", connection(PROTOCOL))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, b"\xff" + c.encode(c.request())))


@case("6.2", "padded HEADERS", answer(200))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, b"\x04" + c.encode(c.request()) + b"\0\0\0\0"))


@case("6.2", "HEADERS too short for their priority", connection(PROTOCOL, FRAME_SIZE))
def _(c):
    c.send(raw(HEADERS, END_HEADERS | END_STREAM | PRIORITIZED, 1, b"\0\0"))


@case("6.3", "PRIORITY on stream 0", connection(PROTOCOL), stream=None)
def _(c):
    c.send(raw(PRIORITY, 0, 0, b"\0\0\0\0\xff"))


@case("6.3", "PRIORITY of 4 bytes", stream(FRAME_SIZE))
def _(c):
    c.send(c.headers(1, c.post(), end=False), raw(PRIORITY, 0, 1, b"\0\0\0\0"))
    return "marked"


@case("6.4", "RST_STREAM on stream 0", connection(PROTOCOL), stream=None)
def _(c):
    c.send(raw(RST_STREAM, 0, 0, b"\0\0\0\x08"))


@case("6.4", "RST_STREAM of 3 bytes", connection(FRAME_SIZE))
def _(c):
    c.send(c.headers(1, c.post(), end=False), raw(RST_STREAM, 0, 1, b"\0\0\0"))


@case("6.5", "a SETTINGS acknowledgement with content", connection(FRAME_SIZE), stream=None)
def _(c):
    c.send(raw(SETTINGS, ACK, 0, b"\0"))


@case("6.5", "SETTINGS on a stream", connection(PROTOCOL), stream=None)
def _(c):
    c.send(raw(SETTINGS, 0, 1, b"\0\3\0\0\0\x64"))


@case("6.5", "SETTINGS of 3 bytes", connection(FRAME_SIZE), stream=None)
def _(c):
    c.send(raw(SETTINGS, 0, 0, b"\0\3\0"))


@case("6.5", "a SETTINGS acknowledgement that nobody waits for", IGNORED, connection(PROTOCOL), stream=None)
def _(c):
    c.send(raw(SETTINGS, ACK, 0))


def setting(number, value):
    return raw(SETTINGS, 0, 0, struct.pack(">HI", number, value))


@case("6.5.2", "ENABLE_PUSH of 2", connection(PROTOCOL), stream=None)
def _(c):
    c.send(setting(2, 2))


@case("6.5.2", "INITIAL_WINDOW_SIZE over 2^31 - 1", connection(FLOW_CONTROL), stream=None)
def _(c):
    c.send(setting(4, 1 << 31))


@case("6.5.2", "MAX_FRAME_SIZE below 2^14", connection(PROTOCOL), stream=None)
def _(c):
    c.send(setting(5, 16383))


@case("6.5.2", "MAX_FRAME_SIZE over 2^24 - 1", connection(PROTOCOL), stream=None)
def _(c):
    c.send(setting(5, 1 << 24))


@case("6.5.2", "an unknown setting", IGNORED, stream=None)
def _(c):
    c.send(setting(0xff, 1))


@case("6.5.2", "a header table of none", answer(200))
def _(c):
    c.send(setting(1, 0), c.headers(1, c.request()))


@case("6.5.2", "a header list that is too small for any answer", answer(200), stream(PROTOCOL, INTERNAL, REFUSED))
def _(c):
    c.send(setting(6, 1), c.headers(1, c.request()))


@case("6.5.3", "settings hold in their order: of two, the last", ["ignored"])
def _(c):
    c.send(raw(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 100, 4, 1)))
    c.until_acknowledged()
    c.read_data = False
    c.send(c.headers(1, c.request(path="/large/50")))
    assert c.first_data(1) == 1
    return "marked"


@case("6.5.3", "every SETTINGS is acknowledged", IGNORED, stream=None)
def _(c):
    before = c.acknowledged
    c.send(*[SettingsFrame(0)] * 50)
    while c.acknowledged < before + 50:
        c.frame()


@case("6.6", "PUSH_PROMISE from a client", connection(PROTOCOL))
def _(c):
    c.send(c.headers(1, c.post(), end=False), raw(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + c.encode(c.request())))


@case("6.7", "PING is answered with what it held", IGNORED, stream=None)
def _(c):
    c.send(PingFrame(0, b"pingpong"))
    while True:
        frame = c.frame()
        if isinstance(frame, PingFrame) and "ACK" in frame.flags:
            assert frame.opaque_data == b"pingpong"
            return None


@case("6.7", "a PING acknowledgement that nobody waits for", IGNORED, stream=None)
def _(c):
    c.send(raw(PING, ACK, 0, b"invalid!"))


@case("6.7", "PING on a stream", connection(PROTOCOL), stream=None)
def _(c):
    c.send(raw(PING, 0, 1, b"12345678"))


@case("6.7", "PING of 6 bytes", connection(FRAME_SIZE), stream=None)
def _(c):
    c.send(raw(PING, 0, 0, b"123456"))


@case("6.8", "GOAWAY on a stream", connection(PROTOCOL), stream=None)
def _(c):
    c.send(raw(GOAWAY, 0, 1, b"\0" * 8))


@case("6.8", "a client's GOAWAY lets its open requests end", answer(200))
def _(c):
    c.send(c.headers(1, c.post(), end=False), GoAwayFrame(0, 0, 0), c.data(1, b"test"))


@case("6.9", "WINDOW_UPDATE by 0 on the connection", connection(PROTOCOL), stream=None)
def _(c):
    c.send(raw(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"))


@case("6.9", "WINDOW_UPDATE by 0 on a stream", stream(PROTOCOL))
def _(c):
    c.send(c.headers(1, c.post(), end=False), raw(WINDOW_UPDATE, 0, 1, b"\0\0\0\0"))


@case("6.9", "WINDOW_UPDATE of 3 bytes", connection(FRAME_SIZE), stream=None)
def _(c):
    c.send(raw(WINDOW_UPDATE, 0, 0, b"\0\0\1"))


@case("6.9.1", "a window of 1 is kept, and the answer comes whole", answer(200))
def _(c):
    c.send(setting(4, 1))
    c.until_acknowledged()
    c.read_data = False
    c.send(c.headers(1, c.request(path="/large/50")))
    assert c.first_data(1) == 1
    for _ in range(48):
        c.send(WindowUpdateFrame(1, 1))
        assert c.first_data(1) == 1
    c.read_data = True
    c.send(WindowUpdateFrame(1, 1))


@case("6.9.1", "a window of the connection over 2^31 - 1", connection(FLOW_CONTROL), stream=None)
def _(c):
    c.send(WindowUpdateFrame(0, 2**31 - 1), WindowUpdateFrame(0, 2**31 - 1))


@case("6.9.1", "a window of a stream over 2^31 - 1", stream(FLOW_CONTROL))
def _(c):
    c.send(c.headers(1, c.post(), end=False), WindowUpdateFrame(1, 2**31 - 1), WindowUpdateFrame(1, 2**31 - 1))


@case("6.9.2", "a window that grows by SETTINGS while an answer waits", answer(200))
def _(c):
    c.send(setting(4, 0))
    c.until_acknowledged()
    c.send(c.headers(1, c.request(path="/large/50")))
    while not isinstance(c.frame(), HeadersFrame):
        pass
    c.send(setting(4, 65535))


@case("6.9.2", "a window that becomes negative, and positive again", answer(200))
def _(c):
    c.send(setting(4, 3))
    c.until_acknowledged()
    c.read_data = False
    c.send(c.headers(1, c.request(path="/large/50")))
    assert c.first_data(1) == 3
    c.send(setting(4, 2))
    c.until_acknowledged()
    # At -1: one more takes it to 0 and lets nothing through, the next one byte.
    c.send(WindowUpdateFrame(1, 2))
    assert c.first_data(1) == 1
    c.read_data = True
    c.send(WindowUpdateFrame(1, 65535))


@case("6.9.2", "a window that SETTINGS makes too large", connection(FLOW_CONTROL))
def _(c):
    c.send(c.headers(1, c.post(), end=False), WindowUpdateFrame(1, 2**31 - 1 - 65535), setting(4, 2**31 - 1))


@case("6.10", "a block in three CONTINUATION", answer(200))
def _(c):
    block = c.encode(c.request(("x-long", "abcdefghijklmnop")))
    c.send(raw(HEADERS, END_STREAM, 1, block[:5]), raw(CONTINUATION, 0, 1, block[5:9]), raw(CONTINUATION, 0, 1),
           raw(CONTINUATION, END_HEADERS, 1, block[9:]))


@case("6.10", "CONTINUATION, then another frame than CONTINUATION", connection(PROTOCOL))
def _(c):
    block = c.encode(c.request())
    c.send(raw(HEADERS, END_STREAM, 1, block[:5]), raw(CONTINUATION, 0, 1, block[5:]), c.data(1, b"test"))


@case("6.10", "CONTINUATION on stream 0", connection(PROTOCOL))
def _(c):
    c.send(raw(HEADERS, END_STREAM, 1, c.encode(c.request())), raw(CONTINUATION, END_HEADERS, 0))


@case("6.10", "CONTINUATION on another stream", connection(PROTOCOL))
def _(c):
    c.send(raw(HEADERS, END_STREAM, 1, c.encode(c.request())), raw(CONTINUATION, END_HEADERS, 3))


@case("6.10", "CONTINUATION after END_HEADERS", connection(PROTOCOL))
def _(c):
    c.send(c.headers(1, c.post(), end=False), raw(CONTINUATION, END_HEADERS, 1, c.encode([("x-more", "1")])))


@case("6.10", "CONTINUATION after a CONTINUATION with END_HEADERS", connection(PROTOCOL))
def _(c):
    block = c.encode(c.post())
    c.send(raw(HEADERS, 0, 1, block[:5]), raw(CONTINUATION, END_HEADERS, 1, block[5:]),
           raw(CONTINUATION, END_HEADERS, 1, c.encode([("x-more", "1")])))


@case("6.10", "CONTINUATION after DATA", connection(PROTOCOL))
def _(c):
    c.send(c.headers(1, c.post(), end=False), c.data(1, b"test", end=False),
           raw(CONTINUATION, END_HEADERS, 1, c.encode([("x-more", "1")])))


@case("7", "GOAWAY with an unknown code", answer(200))
def _(c):
    c.send(c.headers(1, c.post(), end=False), GoAwayFrame(0, 0, 0xff), c.data(1, b"test"))


@case("7", "RST_STREAM with an unknown code", IGNORED)
def _(c):
    c.send(c.headers(1, c.post(), end=False), rst(1, 0xff))
    return "marked"


# 8.1 Messages

@case("8.1", "HEAD", answer(200))
def _(c):
    c.send(c.headers(1, c.request(method="HEAD")))


@case("8.1", "a body in many DATA, some empty", answer(200))
def _(c):
    c.send(c.headers(1, c.post(), end=False), *(c.data(1, b"ab", end=False) for _ in range(20)), c.data(1, b"", end=False), c.data(1))
    came = c.outcome(1, False)
    assert [r[1] for r in c.app.saw(c.path)] == [b"ab" * 20]
    return came


@case("8.1", "trailers arrive", answer(200))
def _(c):
    c.send(c.headers(1, c.post(("trailer", "x-sum")), end=False), c.data(1, b"ab", end=False), c.headers(1, [("x-sum", "3")]))
    came = c.outcome(1, False)
    assert [r[2] for r in c.app.saw(c.path)] == [[(b"x-sum", b"3")]], c.app.saw(c.path)
    return came


@case("8.1", "a second HEADERS that does not end the stream", MALFORMED)
def _(c):
    c.send(c.headers(1, c.post(), end=False), c.headers(1, [("x-more", "1")], end=False))


@case("8.1", "DATA after the trailers", stream(STREAM_CLOSED))
def _(c):
    c.send(c.headers(1, c.post(), end=False), c.headers(1, [("x-more", "1")]), c.data(1, b"test"))


@case("8.1.1", "a content-length that one DATA exceeds", MALFORMED)
def _(c):
    c.send(c.headers(1, c.post(("content-length", "1")), end=False), c.data(1, b"test"))


@case("8.1.1", "a content-length that DATA falls short of", MALFORMED)
def _(c):
    c.send(c.headers(1, c.post(("content-length", "5")), end=False), c.data(1, b"test"))


@case("8.1.1", "a content-length that many DATA exceed", MALFORMED)
def _(c):
    c.send(c.headers(1, c.post(("content-length", "5")), end=False), c.data(1, b"test", end=False), c.data(1, b"test"))


@case("8.1.1", "a content-length without a body", MALFORMED)
def _(c):
    c.send(c.headers(1, c.post(("content-length", "5"))))


@case("8.1.1", "a content-length that trailers end short", MALFORMED)
def _(c):
    c.send(c.headers(1, c.post(("content-length", "5")), end=False), c.data(1, b"test", end=False), c.headers(1, [("x-more", "1")]))


for value in ["-1", "+5", "5, 5", "0x4", "", "99999999999999999999"]:
    @case("8.1.1", f"content-length {value!r}", MALFORMED)
    def _(c, value=value):
        c.send(c.headers(1, c.post(("content-length", value)), end=False), c.data(1, b"test"))


@case("8.1.1", "two content-length", MALFORMED)
def _(c):
    c.send(c.headers(1, c.post(("content-length", "4"), ("content-length", "5")), end=False), c.data(1, b"test"))


@case("8.1.1", "two content-length that agree", MALFORMED)
def _(c):
    c.send(c.headers(1, c.post(("content-length", "4"), ("content-length", "4")), end=False), c.data(1, b"test"))


# 8.2 Fields

for what, name in [("upper case", b"X-Test"), ("a space", b"x test"), ("a colon", b"x:test"), ("a control character", b"x\x01test"),
                   ("DEL", b"x\x7ftest"), ("a byte that is not ASCII", b"x\xfftest"), ("nothing", b""), ("a line feed", b"x\ntest")]:
    @case("8.2.1", f"a field name with {what}", MALFORMED)
    def _(c, name=name):
        c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, Plain.block([*c.request(), (name, "ok")])))


for what, value in [("NUL", b"a\0b"), ("CR", b"a\rb"), ("LF", b"a\nb"), ("CR LF and a field", b"a\r\nx-injected: b")]:
    @case("8.2.1", f"a field value with {what}", MALFORMED)
    def _(c, value=value):
        c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, Plain.block([*c.request(), ("x-test", value)])))


for what, value in [("a space in front", b" ok"), ("a space behind", b"ok "), ("a tab in front", b"\tok"), ("a tab behind", b"ok\t")]:
    @case("8.2.1", f"a field value with {what}", MALFORMED)
    def _(c, value=value):
        c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, Plain.block([*c.request(), ("x-test", value)])))


@case("8.2.1", "trailers with a space behind a value", MALFORMED)
def _(c):
    c.send(c.headers(1, c.post(), end=False), c.data(1, b"test", end=False), c.headers(1, [("x-sum", "1 ")]))


for name, value in [("connection", "keep-alive"), ("proxy-connection", "keep-alive"), ("keep-alive", "timeout=5"),
                    ("transfer-encoding", "chunked"), ("upgrade", "websocket")]:
    @case("8.2.2", f"the connection's own field {name}", MALFORMED)
    def _(c, name=name, value=value):
        c.send(c.headers(1, c.request((name, value))))


@case("8.2.2", "te: trailers", answer(200))
def _(c):
    c.send(c.headers(1, c.request(("te", "trailers"))))


@case("8.2.2", "te: trailers, deflate", MALFORMED)
def _(c):
    c.send(c.headers(1, c.request(("te", "trailers, deflate"))))


@case("8.2.3", "a cookie in crumbs", answer(200))
def _(c):
    c.send(c.headers(1, c.request(("cookie", "a=b"), ("cookie", "c=d"))))
    came = c.outcome(1, False)
    cookies = b"; ".join(v for n, v in c.app.saw(c.path)[0][0] if n == b"cookie")
    assert cookies == b"a=b; c=d", cookies
    return came


# 8.3 Pseudo-headers

def of(c, **changes):
    """The pseudo-headers of a good request, changed; None leaves one out."""
    fields = {"method": "GET", "scheme": "http", "path": c.path, "authority": "server.shop", **changes}
    return [(f":{name}", value) for name, value in fields.items() if value is not None]


@case("8.3", "an unknown pseudo-header", MALFORMED)
def _(c):
    c.send(c.headers(1, [*of(c), (":test", "ok")]))


@case("8.3", "an answer's pseudo-header", MALFORMED)
def _(c):
    c.send(c.headers(1, [*of(c), (":status", "200")]))


@case("8.3", "a pseudo-header in the trailers", MALFORMED)
def _(c):
    c.send(c.headers(1, c.post(), end=False), c.data(1, b"test", end=False), c.headers(1, [(":method", "GET"), ("x-sum", "3")]))
    came = c.outcome(1, False)
    assert all(r[2] == [(b"x-sum", b"3")] for r in c.app.saw(c.path)), c.app.saw(c.path)
    return came


@case("8.3", "a pseudo-header behind a field", MALFORMED)
def _(c):
    c.send(c.headers(1, [*of(c, path=None), ("x-test", "ok"), (":path", c.path)]))


for name in ["method", "scheme", "path"]:
    @case("8.3.1", f"no :{name}", MALFORMED)
    def _(c, name=name):
        c.send(c.headers(1, of(c, **{name: None})))

    @case("8.3.1", f"two :{name}", MALFORMED)
    def _(c, name=name):
        fields = of(c)
        c.send(c.headers(1, [*fields, next(f for f in fields if f[0] == f":{name}")]))


@case("8.3.1", "two :authority", MALFORMED)
def _(c):
    c.send(c.headers(1, [*of(c), (":authority", "server.shop")]))


for what, changes in [("an empty :path", {"path": ""}), ("a :path without its slash", {"path": "x"}),
                      ("a :path with a space", {"path": "/a b"}), ("a :path with a fragment", {"path": "/a#b"}),
                      ("a :path that climbs", {"path": "/a/../b"}), ("a :path of *", {"path": "*"}),
                      ("an absolute :path", {"path": "http://server.shop/x"}),
                      ("an empty :method", {"method": ""}), ("a :method with a space", {"method": "GE T"}),
                      ("an empty :authority", {"authority": ""}), ("user information in :authority", {"authority": "u@server.shop"}),
                      ("a path in :authority", {"authority": "server.shop/x"}), ("a line feed in :authority", {"authority": "server.shop\nx"}),
                      ("neither :authority nor host", {"authority": None}), ("an empty :scheme", {"scheme": ""}),
                      ("another :scheme than HTTP's", {"scheme": "file"})]:
    @case("8.3.1", what, MALFORMED)
    def _(c, changes=changes):
        c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, Plain.block(of(c, **changes))))


# A gateway's routes lead paths to services, and this is none.
@case("8.3.1", "OPTIONS *", answer(200, 404))
def _(c):
    c.send(c.headers(1, of(c, method="OPTIONS", path="*")))


@case("8.3.1", "host instead of :authority", answer(200))
def _(c):
    c.send(c.headers(1, [*of(c, authority=None), ("host", "server.shop")]))


@case("8.3.1", "host and :authority differ", MALFORMED)
def _(c):
    c.send(c.headers(1, [*of(c), ("host", "other.shop")]))


@case("8.4", "SETTINGS that allow push are not made use of", answer(200))
def _(c):
    c.send(setting(2, 1), c.headers(1, c.request()))


@case("8.5", "CONNECT", answer(405, 501))
def _(c):
    c.send(c.headers(1, [(":method", "CONNECT"), (":authority", "server.shop:443")], end=False))


@case("8.5", "CONNECT with :scheme and :path", MALFORMED, answer(405, 501))
def _(c):
    c.send(c.headers(1, of(c, method="CONNECT"), end=False))


@case("8.5", "an extended CONNECT (RFC 8441) that was not offered", MALFORMED, answer(405, 501))
def _(c):
    c.send(c.headers(1, [*of(c, method="CONNECT"), (":protocol", "websocket")], end=False))


@case("8.5", "an extended CONNECT is not offered", IGNORED, stream=None)
def _(c):
    assert not c.settings.get(SettingsFrame.ENABLE_CONNECT_PROTOCOL)


@case("8.6", "Upgrade has no meaning", MALFORMED)
def _(c):
    c.send(c.headers(1, c.request(("connection", "upgrade"), ("upgrade", "h2c"))))


@case("8.7", "a client that resets is not answered", IGNORED)
def _(c):
    c.send(c.headers(1, c.post(), end=False), rst(1))
    return "marked"


@case("8.8", "an interim answer is not the answer", answer(200))
def _(c):
    c.send(c.headers(1, c.post(("expect", "100-continue")), end=False), c.data(1, b"test"))


@case("10.5.1", "a header list over SETTINGS_MAX_HEADER_LIST_SIZE", answer(431), stream(PROTOCOL, CALM))
def _(c):
    limit = c.settings[SettingsFrame.MAX_HEADER_LIST_SIZE]
    block = Plain.block([*c.request(), *((f"x-{n}", "y" * 1000) for n in range(limit // 1000 + 1))])
    parts = [block[n:n + 16384] for n in range(0, len(block), 16384)]
    c.send(raw(HEADERS, END_STREAM, 1, parts[0]), *(raw(CONTINUATION, 0, 1, p) for p in parts[1:-1]),
           raw(CONTINUATION, END_HEADERS, 1, parts[-1]))


class Plain:
    """HPACK without the library: literals that are never indexed, whatever they hold."""

    @staticmethod
    def block(fields):
        def text(value):
            value = value.encode() if isinstance(value, str) else value
            if len(value) < 127:
                return bytes([len(value)]) + value
            rest, out = len(value) - 127, b"\x7f"
            while rest >= 128:
                out += bytes([rest % 128 | 128])
                rest //= 128
            return out + bytes([rest]) + value
        return b"".join(b"\x10" + text(n) + text(v) for n, v in fields)


class Tried(Client):
    """The client of one case."""

    def __init__(self, address, path, app=None, **others):
        self.address, self.app = address, app or self.app
        super().__init__(address, path, **others)

    def largest(self):
        return self.settings.get(SettingsFrame.MAX_FRAME_SIZE, 16384)

    def until_acknowledged(self):
        before = self.acknowledged
        while self.acknowledged == before:
            self.frame()

    def first_data(self, of):
        """The length of the next DATA of a stream."""
        while True:
            frame = self.frame()
            if isinstance(frame, DataFrame) and frame.stream_id == of and frame.data:
                return len(frame.data)


def run(address, app, number, section, name, expected, of, body):
    path = f"/case/{number}/{address.rsplit(':', 1)[1]}"
    client = Tried(address, path, app)
    try:
        came = body(client)
        if isinstance(came, int):
            of, came = came, None
        if came is None or came == "marked":
            came = client.outcome(of, of is None or came == "marked")
        if came == "ignored":
            # The connection goes on; and a reset may come behind the mark, which waits for nothing.
            client.read_data = True
            ask = client.ask(2001, path="/goes-on")
            if ask != "answer 200":
                came = f"ignored, but then {ask}"
            elif of in client.resets:
                came = f"stream {code_name(client.resets[of])}"
    except AssertionError as error:
        came = f"wrong: {error}"
    except Gone:
        came = "closed too early"
    finally:
        client.close()
    if MALFORMED in expected:
        # The app may have begun on a body; it never has the whole request.
        if app.saw(path):
            came += ", and the app received it"
    return came


def main():
    app = App()
    print(app.port, flush=True)
    failed = 0
    for address in sys.stdin.readline().split():
        for number, (section, name, expected, of, body) in enumerate(CASES):
            allowed = [word for group in expected for word in group]
            came = run(address, app, number, section, name, expected, of, body)
            key = (section, name)
            if key in KNOWN:
                word = "known" if came == KNOWN[key][0] else "FAILED: known otherwise"
            else:
                word = "ok" if came in allowed else "FAILED"
            failed += word.startswith("FAILED")
            why = f"\t{KNOWN[key][1]}" if key in KNOWN else ""
            print(f"{word}\t{section}\t{name}\texpected {' | '.join(allowed)}\tcame {came}{why}")
        # Whatever was done to it, it serves others.
        last = Tried(address, "/others", app)
        assert last.ask(1) == "answer 200"
        last.close()
    print(f"{len(CASES)} cases, {failed} failed")
    sys.exit(failed > 0)


main()
