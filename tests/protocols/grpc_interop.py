"""The public gRPC interoperability cases on grpcio, as a server and as a client.

Prints the port of its server, reads one line of `address` or `address+gzip` (where the server there knows gzip), runs every case against
each and prints a line per case; ends with 1 if one fails. An empty line: it serves until its standard input ends.
"""
import pathlib
import sys
import tempfile
import threading
import traceback
from concurrent import futures

import grpc
from grpc_tools import protoc

HERE = pathlib.Path(__file__).parent
PATIENCE = 60
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"

with tempfile.TemporaryDirectory() as folder:
    assert protoc.main(["protoc", f"-I{HERE}", f"--python_out={folder}", f"--grpc_python_out={folder}", str(HERE / "interop.proto")]) == 0
    sys.path.insert(0, folder)
    import interop_pb2 as pb
    import interop_pb2_grpc as rpc


class Service(rpc.TestServiceServicer):
    def EmptyCall(self, request, context):
        self.echo(context)
        return pb.Empty()

    def UnaryCall(self, request, context):
        self.echo(context)
        self.status(request, context)
        if request.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        return pb.SimpleResponse(payload=pb.Payload(body=bytes(request.response_size)))

    def StreamingOutputCall(self, request, context):
        yield from self.answers(request, context)

    def StreamingInputCall(self, requests, context):
        return pb.StreamingInputCallResponse(aggregated_payload_size=sum(len(r.payload.body) for r in requests))

    def FullDuplexCall(self, requests, context):
        self.echo(context)
        for request in requests:
            self.status(request, context)
            yield from self.answers(request, context)

    @staticmethod
    def answers(request, context):
        if any(parameters.compressed.value for parameters in request.response_parameters):
            context.set_compression(grpc.Compression.Gzip)
        for parameters in request.response_parameters:
            if parameters.interval_us:
                # Until the caller gives up, or the time is over.
                gone = threading.Event()
                context.add_callback(gone.set)
                gone.wait(parameters.interval_us / 1e6)
            if parameters.HasField("compressed") and not parameters.compressed.value:
                context.disable_next_message_compression()
            yield pb.StreamingOutputCallResponse(payload=pb.Payload(body=bytes(parameters.size)))

    @staticmethod
    def echo(context):
        metadata = dict(context.invocation_metadata())
        if INITIAL in metadata:
            context.send_initial_metadata([(INITIAL, metadata[INITIAL])])
        if TRAILING in metadata:
            context.set_trailing_metadata([(TRAILING, metadata[TRAILING])])

    @staticmethod
    def status(request, context):
        if request.response_status.code:
            code = next(c for c in grpc.StatusCode if c.value[0] == request.response_status.code)
            context.abort(code, request.response_status.message)


CASES = []


def case(run):
    CASES.append(run)
    return run


def fails(code, call, details=None):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        assert details is None or error.details() == details, error.details()
        return
    raise AssertionError(f"expected {code}")


def output(*sizes, **others):
    return pb.StreamingOutputCallRequest(response_parameters=[pb.ResponseParameters(size=s, interval_us=others.get("interval_us", 0)) for s in sizes])


SIZES = [31415, 9, 2653, 58979]
SENT = [27182, 8, 1828, 45904]


@case
def empty_unary(stub):
    assert stub.EmptyCall(pb.Empty(), timeout=PATIENCE) == pb.Empty()


def large(stub, **others):
    request = pb.SimpleRequest(response_size=314159, payload=pb.Payload(body=bytes(271828)))
    assert stub.UnaryCall(request, timeout=PATIENCE, **others).payload.body == bytes(314159)


@case
def large_unary(stub):
    large(stub)


@case
def client_compressed_unary(stub):
    if stub.gzip:
        large(stub, compression=grpc.Compression.Gzip)
    else:
        fails(grpc.StatusCode.UNIMPLEMENTED, lambda: large(stub, compression=grpc.Compression.Gzip))


@case
def server_compressed_unary(stub):
    for compressed in True, False:
        request = pb.SimpleRequest(response_size=314159, response_compressed=pb.BoolValue(value=compressed))
        assert stub.UnaryCall(request, timeout=PATIENCE).payload.body == bytes(314159)


@case
def client_compressed_streaming(stub):
    def call():
        requests = (pb.StreamingInputCallRequest(payload=pb.Payload(body=bytes(s))) for s in SENT)
        return stub.StreamingInputCall(requests, timeout=PATIENCE, compression=grpc.Compression.Gzip).aggregated_payload_size
    if stub.gzip:
        assert call() == 74922
    else:
        fails(grpc.StatusCode.UNIMPLEMENTED, call)


@case
def server_compressed_streaming(stub):
    request = output(31415, 92653)
    for parameters, compressed in zip(request.response_parameters, [True, False]):
        parameters.compressed.value = compressed
    assert [len(r.payload.body) for r in stub.StreamingOutputCall(request, timeout=PATIENCE)] == [31415, 92653]


@case
def client_streaming(stub):
    requests = (pb.StreamingInputCallRequest(payload=pb.Payload(body=bytes(s))) for s in SENT)
    assert stub.StreamingInputCall(requests, timeout=PATIENCE).aggregated_payload_size == 74922


@case
def server_streaming(stub):
    assert [len(r.payload.body) for r in stub.StreamingOutputCall(output(*SIZES), timeout=PATIENCE)] == SIZES


@case
def ping_pong(stub):
    turn = threading.Semaphore(0)

    def requests():
        for answer, sent in zip(SIZES, SENT):
            request = output(answer)
            request.payload.body = bytes(sent)
            yield request
            turn.acquire(timeout=PATIENCE)
    came = []
    for response in stub.FullDuplexCall(requests(), timeout=PATIENCE):
        came.append(len(response.payload.body))
        turn.release()
    assert came == SIZES, came


@case
def empty_stream(stub):
    assert list(stub.FullDuplexCall(iter(()), timeout=PATIENCE)) == []


@case
def custom_metadata(stub):
    metadata = [(INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab")]
    request = pb.SimpleRequest(response_size=314159, payload=pb.Payload(body=bytes(271828)))
    _, call = stub.UnaryCall.with_call(request, metadata=metadata, timeout=PATIENCE)
    stream = stub.FullDuplexCall(iter([output(31415)]), metadata=metadata, timeout=PATIENCE)
    assert len(list(stream)) == 1
    for call in call, stream:
        assert dict(call.initial_metadata())[INITIAL] == "test_initial_metadata_value"
        assert dict(call.trailing_metadata())[TRAILING] == b"\xab\xab\xab"


@case
def status_code_and_message(stub):
    status = pb.EchoStatus(code=2, message="test status message")
    fails(grpc.StatusCode.UNKNOWN, lambda: stub.UnaryCall(pb.SimpleRequest(response_status=status), timeout=PATIENCE), status.message)
    requests = [pb.StreamingOutputCallRequest(response_status=status)]
    fails(grpc.StatusCode.UNKNOWN, lambda: list(stub.FullDuplexCall(iter(requests), timeout=PATIENCE)), status.message)


@case
def every_status_code(stub):
    for code in grpc.StatusCode:
        if code != grpc.StatusCode.OK:
            status = pb.EchoStatus(code=code.value[0], message=code.name)
            fails(code, lambda: stub.UnaryCall(pb.SimpleRequest(response_status=status), timeout=PATIENCE), code.name)


@case
def special_status_message(stub):
    status = pb.EchoStatus(code=2, message=SPECIAL)
    fails(grpc.StatusCode.UNKNOWN, lambda: stub.UnaryCall(pb.SimpleRequest(response_status=status), timeout=PATIENCE), SPECIAL)


@case
def unimplemented_method(stub):
    fails(grpc.StatusCode.UNIMPLEMENTED, lambda: stub.UnimplementedCall(pb.Empty(), timeout=PATIENCE))


@case
def unimplemented_service(stub):
    other = rpc.UnimplementedServiceStub(stub.channel)
    fails(grpc.StatusCode.UNIMPLEMENTED, lambda: other.UnimplementedCall(pb.Empty(), timeout=PATIENCE))


@case
def cancel_after_begin(stub):
    goes_on = threading.Event()

    def requests():
        goes_on.wait(PATIENCE)
        yield from ()
    call = stub.StreamingInputCall.future(requests(), timeout=PATIENCE)
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED, call.code()
    goes_on.set()


@case
def cancel_after_first_response(stub):
    goes_on = threading.Event()

    def requests():
        yield output(31415)
        goes_on.wait(PATIENCE)
    call = stub.FullDuplexCall(requests(), timeout=PATIENCE)
    assert len(next(call).payload.body) == 31415
    call.cancel()
    fails(grpc.StatusCode.CANCELLED, lambda: next(call))
    goes_on.set()


@case
def timeout_on_sleeping_server(stub):
    fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(stub.FullDuplexCall(iter([output(31415, interval_us=30_000_000)]), timeout=0.001)))
    fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(stub.StreamingOutputCall(output(31415, interval_us=30_000_000), timeout=0.2)))


@case
def concurrent_large_unary(stub):
    with futures.ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(large, stub) for _ in range(64)]:
            done.result(PATIENCE)


@case
def rpc_soak(stub):
    for _ in range(200):
        large(stub)


@case
def channel_soak(stub):
    for _ in range(20):
        with grpc.insecure_channel(stub.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            assert rpc.TestServiceStub(channel).EmptyCall(pb.Empty(), timeout=PATIENCE) == pb.Empty()


def main():
    server = grpc.server(futures.ThreadPoolExecutor(64))
    rpc.add_TestServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    targets, failed = sys.stdin.readline().split(), 0
    if not targets:
        sys.stdin.read()
    for target in targets:
        address, _, gzip = target.partition("+")
        with grpc.insecure_channel(address) as channel:
            stub = rpc.TestServiceStub(channel)
            stub.channel, stub.target, stub.gzip = channel, address, bool(gzip)
            for run in CASES:
                try:
                    run(stub)
                    print(f"ok\t{run.__name__}", flush=True)
                except Exception as error:
                    failed += 1
                    print(f"FAILED\t{run.__name__}\t{error!r}\t{traceback.format_exc(limit=-1)!r}", flush=True)
    server.stop(0)
    print(f"{len(CASES)} cases, {failed} failed")
    sys.exit(failed > 0)


main()
