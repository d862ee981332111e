"""What an HTTP/2 client can do to cost a server more than itself, many times over. A flood ends when the server ends the connection or
when all of it has been swallowed; after each, another client is served.

Prints the port of its app, reads one line with the addresses of the listeners under test, and prints a line per flood with how it
ended. What it may cost in memory is measured by whoever started it.
"""
import socket
import sys
import threading

from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame, PriorityFrame, SettingsFrame, WindowUpdateFrame

from frames import *
from http2_app import App

FLOODS = []


def flood(*expected):
    def register(run):
        FLOODS.append((run, expected))
        return run
    return register


SWALLOWED = "swallowed"
ENDED = "ended"


class Flooder(Client):
    """A client that writes as much as it can, while somebody reads what comes so that the other side can go on."""

    def pour(self, pieces):
        """Writes the pieces until the connection ends. Says which it was."""
        ended = threading.Event()

        def drain():
            try:
                while self.sock.recv(65536):
                    pass
            except OSError:
                pass
            ended.set()
        reader = threading.Thread(target=drain, daemon=True)
        reader.start()
        try:
            for piece in pieces:
                if ended.is_set():
                    return ENDED
                self.sock.sendall(piece)
            # All is written; whether it was swallowed, an end of our half tells: the server finishes, and ends its own.
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return ENDED
        reader.join(PATIENCE)
        return SWALLOWED if ended.is_set() else "nothing"


@flood(ENDED, SWALLOWED)
def hpack_bomb(c):
    """One long entry of the table, named again and again: a byte of ours is four thousand decoded."""
    entry = b"\x40\x01a\x7f\x99\x1e" + b"x" * 3992
    first = c.encode(c.request())
    def blocks():
        yield raw(HEADERS, END_HEADERS | END_STREAM, 1, first + entry)
        for n in range(200):
            yield raw(HEADERS, END_HEADERS | END_STREAM, 3 + 2 * n, c.encode(c.request()) + b"\xbe" * 16000)
    return c.pour(blocks())


@flood(ENDED)
def continuation(c):
    """A header block without an end."""
    begun = raw(HEADERS, END_STREAM, 1, c.encode(c.request()))
    piece = raw(CONTINUATION, 0, 1, b"\x10\x01a\x7f\x81\x7e" + b"x" * 16256)
    return c.pour([begun, *[piece] * 4000])


@flood(ENDED)
def empty_continuation(c):
    """The same, of nothing at all."""
    return c.pour([raw(HEADERS, END_STREAM, 1, c.encode(c.request())), *[raw(CONTINUATION, 0, 1) * 1000] * 1000])


@flood(ENDED)
def rapid_reset(c):
    """Requests that are taken back as soon as they are made."""
    def pairs():
        for n in range(20_000):
            yield c.headers(1 + 2 * n, c.request(path="/large/1000")).serialize() + rst(1 + 2 * n).serialize()
    return c.pour(pairs())


@flood(ENDED)
def reset_by_the_server(c):
    """Requests that make the server do the resetting (CVE-2025-8671): each breaks a rule of its own stream."""
    def broken():
        for n in range(20_000):
            block = c.encode([*c.post(path="/large/1000"), ("content-length", "1")])
            yield raw(HEADERS, END_HEADERS, 1 + 2 * n, block) + DataFrame(1 + 2 * n, b"four").serialize()
    return c.pour(broken())


@flood(ENDED, SWALLOWED)
def ping(c):
    return c.pour([PingFrame(0, b"12345678").serialize() * 1000] * 200)


@flood(ENDED, SWALLOWED)
def settings(c):
    return c.pour([SettingsFrame(0, {3: 100}).serialize() * 1000] * 200)


@flood(ENDED, SWALLOWED)
def priority(c):
    return c.pour([PriorityFrame(1 + 2 * n, 0, 255).serialize() * 1000 for n in range(200)])


@flood(ENDED, SWALLOWED)
def window_update(c):
    return c.pour([c.headers(1, c.post(path="/x"), end=False).serialize(), *[WindowUpdateFrame(1, 1).serialize() * 1000] * 200])


@flood(ENDED, SWALLOWED)
def empty_data(c):
    return c.pour([c.headers(1, c.post(path="/x"), end=False).serialize(), *[DataFrame(1).serialize() * 1000] * 200])


@flood(ENDED, SWALLOWED)
def padding(c):
    """Windows are used up by what is not content."""
    piece = raw(DATA, PADDED, 1, b"\xff" + b"\0" * 255)
    return c.pour([c.headers(1, c.post(path="/x"), end=False).serialize(), *[piece * 100] * 500])


@flood(ENDED, SWALLOWED)
def unknown_frames(c):
    return c.pour([raw(0xbe, 0, 0, b"x" * 16384)] * 4000)


@flood(ENDED, SWALLOWED)
def large_heads(c):
    """As large as they may be, on as many streams as there may be, none of which ends."""
    def heads():
        for n in range(100):
            fields = [(f"x-{n}-{k}", "y" * 1000) for k in range(28)]
            block = c.encode([*c.post(path="/x"), *fields])
            yield raw(HEADERS, 0, 1 + 2 * n, block[:16000]) + raw(CONTINUATION, END_HEADERS, 1 + 2 * n, block[16000:])
    return c.pour(heads())


@flood("held")
def unread_answers(c):
    """Answers that nobody reads, on as many streams as leave the app room for others (which is the app's to say, not the pair's)."""
    c.send(*(c.headers(1 + 2 * n, c.request(path="/large/1000000")) for n in range(90)))
    # All of them are on their way, and stand.
    while len(c.statuses) < 90:
        c.frame()
    return "held"


def main():
    app = App()
    print(app.port, flush=True)
    failed, held = 0, []
    for address in sys.stdin.readline().split():
        for run, expected in FLOODS:
            # Nothing is given back to the windows of whoever does not read.
            client = Flooder(address, "/flood")
            client.read_data = False
            try:
                came = run(client)
            except Gone:
                came = ENDED
            held.append(client)
            other = Client(address, "/others")
            served = other.ask(1)
            other.close()
            good = came in expected and served == "answer 200"
            failed += not good
            print(f"{'ok' if good else 'FAILED'}\t{run.__name__}\texpected {' | '.join(expected)}\tcame {came}, and another client gets: {served}", flush=True)
            if came != "held":
                client.close()
    print(f"{len(FLOODS)} floods, {failed} failed")
    sys.exit(failed > 0)


main()
