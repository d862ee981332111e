"""The Workload API by the library `spiffe` and by plain grpcio: spiffe_peer.py SOCKET EXPECTED_ID"""

import queue
import sys

import grpc
from spiffe import JwtSource, SpiffeId, TrustDomain, WorkloadApiClient, X509Source

socket, expected = sys.argv[1:]
path = f"unix:{socket}"
domain = TrustDomain("test.signet")

with WorkloadApiClient(path) as client:
    context = client.fetch_x509_context()
    svid = context.default_svid
    assert str(svid.spiffe_id) == expected, svid.spiffe_id
    assert len(svid.cert_chain) == 2, "leaf and issuer"
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(domain)
    assert len(bundle.x509_authorities) == 1
    assert client.fetch_x509_bundles().get_bundle_for_trust_domain(domain) is not None

    token = client.fetch_jwt_svid({"db"})
    assert str(token.spiffe_id) == expected
    read = client.validate_jwt_svid(token.token, "db")
    assert str(read.spiffe_id) == expected
    assert client.fetch_jwt_bundles().get_bundle_for_trust_domain(domain) is not None
    for token_text, audience in [(token.token, "cache"), (token.token[:-4] + "AAAA", "db")]:
        try:
            client.validate_jwt_svid(token_text, audience)
        except Exception:
            continue
        raise SystemExit(f"a token for db was believed for {audience}")
    mine = client.fetch_jwt_svid({"db"}, SpiffeId(expected))
    assert str(mine.spiffe_id) == expected
    try:
        client.fetch_jwt_svid({"db"}, SpiffeId("spiffe://test.signet/ns/shop/sa/server"))
        raise SystemExit("a token of somebody else")
    except SystemExit:
        raise
    except Exception:
        pass

# The library verifies the token by itself, with the keys that we serve.
with JwtSource(socket_path=path) as source:
    keys = source.get_bundle_for_trust_domain(domain)
    from spiffe import JwtSvid

    parsed = JwtSvid.parse_and_validate(source.fetch_svid({"db"}).token, keys, {"db"})
    assert str(parsed.spiffe_id) == expected

with X509Source(socket_path=path) as source:
    first = source.svid
    changed = queue.Queue()
    source.subscribe_for_updates(lambda: changed.put(True))
    changed.get(timeout=60)
    second = source.svid
    one, two = (it.leaf.serial_number for it in (first, second))
    assert one != two, "told of a rotation that was none"
    keys = [it.private_key.private_numbers().private_value for it in (first, second)]
    assert keys[0] != keys[1], "a key was used twice"

# Without the header, or with it twice, nobody is served.
empty = bytes
for metadata in [(), (("workload.spiffe.io", "false"),), (("workload.spiffe.io", "true"),) * 2]:
    with grpc.insecure_channel(path) as channel:
        call = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID", lambda it: it, lambda it: it)
        try:
            next(call(b"", metadata=metadata, timeout=20))
            raise SystemExit(f"served with {metadata}")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
with grpc.insecure_channel(path) as channel:
    call = channel.unary_stream("/SpiffeWorkloadAPI/FetchWITSVID", lambda it: it, lambda it: it)
    try:
        next(call(b"", metadata=(("workload.spiffe.io", "true"),), timeout=20))
        raise SystemExit("there are no workload identity tokens")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
print("ok")
