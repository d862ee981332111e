"""Envoy's SDS v3 by plain grpcio, with messages described here by hand: sds_peer.py SOCKET EXPECTED_ID"""

import queue
import sys

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, struct_pb2  # noqa: F401

socket, expected = sys.argv[1:]
TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
FIELD = descriptor_pb2.FieldDescriptorProto


def define(messages):
    """Messages from {name: {field: (number, type or message name, repeated)}}."""
    file = descriptor_pb2.FileDescriptorProto(name="sds.proto", package="t", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(name=field, number=number, type=FIELD.TYPE_MESSAGE, type_name=kind, label=label)
            else:
                message.field.add(name=field, number=number, type=kind, label=label)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in messages}


text, raw, integer = FIELD.TYPE_STRING, FIELD.TYPE_BYTES, FIELD.TYPE_INT32
ANY = ".google.protobuf.Any"
types = define(
    {
        "Status": {"code": (1, integer, False), "message": (2, text, False)},
        "Request": {
            "version_info": (1, text, False),
            "resource_names": (3, text, True),
            "type_url": (4, text, False),
            "response_nonce": (5, text, False),
            "error_detail": (6, ".t.Status", False),
        },
        "Response": {
            "version_info": (1, text, False),
            "resources": (2, ANY, True),
            "type_url": (4, text, False),
            "nonce": (5, text, False),
        },
        "DeltaRequest": {
            "type_url": (2, text, False),
            "subscribe": (3, text, True),
            "unsubscribe": (4, text, True),
            "response_nonce": (6, text, False),
            "error_detail": (7, ".t.Status", False),
        },
        "Resource": {"version": (1, text, False), "resource": (2, ANY, False), "name": (3, text, False)},
        "DeltaResponse": {
            "resources": (2, ".t.Resource", True),
            "nonce": (5, text, False),
            "removed": (6, text, True),
        },
        "Source": {"inline_bytes": (2, raw, False)},
        "Certificate": {"chain": (1, ".t.Source", False), "key": (2, ".t.Source", False)},
        "Typed": {"name": (1, text, False), "config": (2, ANY, False)},
        "Validation": {"trusted_ca": (1, ".t.Source", False), "custom": (12, ".t.Typed", False)},
        "Secret": {
            "name": (1, text, False),
            "certificate": (2, ".t.Certificate", False),
            "validation": (4, ".t.Validation", False),
        },
    }
)
Request, Response, DeltaRequest, DeltaResponse = (types[n] for n in ["Request", "Response", "DeltaRequest", "DeltaResponse"])
Status, Secret = types["Status"], types["Secret"]


class Stream:
    """A stream that is written and read step by step."""

    def __init__(self, channel, call, request, response):
        self.asking = queue.Queue()
        method = channel.stream_stream(
            f"/envoy.service.secret.v3.SecretDiscoveryService/{call}",
            request.SerializeToString,
            response.FromString,
        )
        self.answers = method(iter(self.asking.get, None), timeout=90)

    def ask(self, request):
        self.asking.put(request)

    def next(self):
        return next(self.answers)

    def fails_with(self, code):
        try:
            next(self.answers)
        except grpc.RpcError as error:
            assert error.code() == code, error
            return error.details()
        raise SystemExit(f"expected {code}")


def secrets(response):
    return {it.name: it for it in (Secret.FromString(any.value) for any in response.resources)}


def serial(secret):
    chain = x509.load_pem_x509_certificates(secret.certificate.chain.inline_bytes)
    key = load_pem_private_key(secret.certificate.key.inline_bytes, None)
    assert chain[0].public_key().public_numbers() == key.public_key().public_numbers(), "another's key"
    return chain[0].serial_number


domain = expected.split("/ns/")[0]
with grpc.insecure_channel(f"unix:{socket}") as channel:
    # Aliases and what they stand for, asked for together.
    names = ["default", expected, "ROOTCA", domain, "ALL"]
    stream = Stream(channel, "StreamSecrets", Request, Response)
    stream.ask(Request(resource_names=names, type_url=TYPE))
    first = stream.next()
    found = secrets(first)
    assert sorted(found) == sorted(names), sorted(found)
    assert serial(found["default"]) == serial(found[expected])
    assert found["ROOTCA"].validation.custom.name == "envoy.tls.cert_validator.spiffe"
    # A refusal brings nothing until the next rotation, and that brings another certificate.
    stream.ask(Request(resource_names=names, type_url=TYPE, response_nonce=first.nonce, error_detail=Status(code=13, message="no")))
    second = stream.next()
    assert serial(secrets(second)["default"]) != serial(found["default"]), "told again what did not change"
    assert second.version_info != first.version_info and second.nonce != first.nonce
    stream.ask(Request(resource_names=["default", "nobody"], type_url=TYPE, response_nonce=second.nonce))
    details = stream.fails_with(grpc.StatusCode.INVALID_ARGUMENT)
    assert details == 'workload is not authorized for the requested identities ["nobody"]', details

    wrong = Stream(channel, "StreamSecrets", Request, Response)
    wrong.ask(Request(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"))
    wrong.fails_with(grpc.StatusCode.INVALID_ARGUMENT)

    delta = Stream(channel, "DeltaSecrets", DeltaRequest, DeltaResponse)
    delta.ask(DeltaRequest(type_url=TYPE, subscribe=["default", "ROOTCA", "nobody"]))
    answer = delta.next()
    assert sorted(it.name for it in answer.resources) == ["ROOTCA", "default"]
    assert list(answer.removed) == ["nobody"]
    delta.ask(DeltaRequest(type_url=TYPE, response_nonce=answer.nonce))
    changed = delta.next()
    assert [it.name for it in changed.resources] == ["default"], "only what changed"

    fetch = channel.unary_unary(
        "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
        Request.SerializeToString,
        Response.FromString,
    )
    everything = secrets(fetch(Request(type_url=TYPE), timeout=20))
    assert sorted(everything) == sorted([expected, domain]), sorted(everything)
print("ok")
