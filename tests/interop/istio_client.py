"""A client of Istio's certificate authority, made from the .proto by grpcio-tools.

  istio_client.py ADDRESS ROOT_PEM TOKEN_FILE CSR_PEM OUT_FOLDER PROTO_FOLDER

Asks for a certificate, checks the answer as Istio's clients do, writes leaf.pem, intermediates.pem and roots.pem, and prints
`ok`; the errors of the contract are asked for, too.
"""
import pathlib
import sys
import tempfile

import grpc
from google.protobuf import struct_pb2
from grpc_tools import protoc

address, root_pem, token_file, csr_pem, out, protos = sys.argv[1:]
generated = tempfile.mkdtemp()
include = pathlib.Path(protoc.__file__).parent / "_proto"
code = protoc.main(
    ["", f"-I{protos}", f"-I{include}", f"--python_out={generated}", f"--grpc_python_out={generated}",
     "istio/v1/auth/ca.proto"])
assert code == 0, code
sys.path.insert(0, generated)
from istio.v1.auth import ca_pb2, ca_pb2_grpc  # noqa: E402

credentials = grpc.ssl_channel_credentials(pathlib.Path(root_pem).read_bytes())
options = [("grpc.ssl_target_name_override", "istiod.istio-system.svc")]
token = pathlib.Path(token_file).read_text().strip()
csr = pathlib.Path(csr_pem).read_text()


def create(token, **fields):
    with grpc.secure_channel(address, credentials, options) as channel:
        stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
        metadata = [("clusterid", "Kubernetes")]
        if token:
            metadata.append(("authorization", "Bearer " + token))
        return stub.CreateCertificate(ca_pb2.IstioCertificateRequest(**fields), metadata=metadata, timeout=20)


def refused(token, code, **fields):
    try:
        create(token, **fields)
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        return error.details()
    raise AssertionError(f"expected {code}")


assert refused(None, grpc.StatusCode.UNAUTHENTICATED, csr=csr) == "request authenticate failure"
assert refused("a.b.c", grpc.StatusCode.UNAUTHENTICATED, csr=csr) == "request authenticate failure"
refused(token, grpc.StatusCode.INVALID_ARGUMENT, csr=csr, validity_duration=-1)
refused(token, grpc.StatusCode.INVALID_ARGUMENT, csr=csr, validity_duration=86401)
refused(token, grpc.StatusCode.INVALID_ARGUMENT, csr="not a request")
impersonating = struct_pb2.Struct()
impersonating.update({"ImpersonatedIdentity": "spiffe://test.signet/ns/shop/sa/orders"})
refused(token, grpc.StatusCode.UNAUTHENTICATED, csr=csr, metadata=impersonating)

# Istio's agent asks for a day.
chain = create(token, csr=csr, validity_duration=86400).cert_chain
assert len(chain) == 3, len(chain)
for pem in chain:
    assert pem.startswith("-----BEGIN CERTIFICATE-----\n") and pem.endswith("-----END CERTIFICATE-----\n"), pem
for pem in chain[:-1]:
    assert pem.count("BEGIN CERTIFICATE") == 1
folder = pathlib.Path(out)
folder.joinpath("leaf.pem").write_text(chain[0])
folder.joinpath("intermediates.pem").write_text("".join(chain[1:-1]))
folder.joinpath("roots.pem").write_text(chain[-1])
print("ok")
