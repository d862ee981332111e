"""A gRPC server and a client of the four call kinds, on grpcio, with bytes as messages.

  grpc_peer.py server             serves on a free port, prints it, ends with its standard input
  grpc_peer.py client HOST:PORT   makes every kind of call through whatever is there, prints `ok` or fails
"""
import sys
import threading
import time
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "unary"),))
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked: größer")
    return request.upper()


def server_stream(request, context):
    for n in range(int(request)):
        yield b"%d" % n
    context.set_trailing_metadata((("x-trailer", "server-stream"),))


def client_stream(requests, context):
    context.set_trailing_metadata((("x-trailer", "client-stream"),))
    return b"%d" % sum(len(r) for r in requests)


def bidi(requests, context):
    for r in requests:
        yield r[::-1]
    context.set_trailing_metadata((("x-trailer", "bidi"),))


def forever(request, context):
    context.add_callback(cancelled.set)
    yield b"first"
    cancelled.wait(60)


def slow(request, context):
    yield b"first"
    while context.is_active():
        time.sleep(0.01)


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(30) else b"no"


KINDS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Forever": grpc.unary_stream_rpc_method_handler(forever),
    "Slow": grpc.unary_stream_rpc_method_handler(slow),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
}


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", KINDS),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0)


def trailer(call):
    return dict(call.trailing_metadata())["x-trailer"]


def client(target):
    with grpc.insecure_channel(target) as channel:
        answer, call = channel.unary_unary("/test.Kinds/Unary").with_call(b"hello", timeout=30)
        assert answer == b"HELLO" and trailer(call) == "unary", (answer, call)
        big = b"x" * 3_000_000
        assert channel.unary_unary("/test.Kinds/Unary")(big, timeout=30) == big.upper()
        try:
            channel.unary_unary("/test.Kinds/Unary")(b"fail", timeout=30)
            raise AssertionError("a failed call succeeded")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
            assert error.details() == "as asked: größer", error.details()
        stream = channel.unary_stream("/test.Kinds/ServerStream")(b"1000", timeout=30)
        assert [int(m) for m in stream] == list(range(1000)) and trailer(stream) == "server-stream"
        answer, call = channel.stream_unary("/test.Kinds/ClientStream").with_call(
            (b"x" * 1000 for _ in range(500)), timeout=30)
        assert answer == b"500000" and trailer(call) == "client-stream", answer
        stream = channel.stream_stream("/test.Kinds/Bidi")((b"ab%d" % n for n in range(200)), timeout=30)
        assert [m for m in stream] == [(b"ab%d" % n)[::-1] for n in range(200)] and trailer(stream) == "bidi"
        stream = channel.unary_stream("/test.Kinds/Forever")(b"", timeout=60)
        assert next(stream) == b"first"
        stream.cancel()
        assert channel.unary_unary("/test.Kinds/WasCancelled")(b"", timeout=60) == b"yes", "cancellation did not arrive"
        try:
            list(channel.unary_stream("/test.Kinds/Slow")(b"", timeout=0.5))
            raise AssertionError("a deadline passed unnoticed")
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED), error
        try:
            channel.unary_unary("/test.Kinds/Missing")(b"", timeout=30)
            raise AssertionError("a missing method answered")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    print("ok")


if sys.argv[1] == "server":
    serve()
else:
    client(sys.argv[2])
