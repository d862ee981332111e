"""An authorisation server on grpcio, with stubs that others generated from Envoy's own API (PyPI xds-protos).

Serves on a free port, prints it, and ends with its standard input. What it says is in the path; what it was asked, it
says in the header `x-asked` of a yes.
"""
import base64
import sys
import time
from concurrent import futures

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.service.auth.v3 import external_auth_pb2_grpc as service
from envoy.type.v3 import http_status_pb2
from google.protobuf import json_format
from google.rpc import status_pb2


def header(key, value):
    return base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=key, value=value))


def denied(code, body="", headers=(), status=7):
    return auth.CheckResponse(
        status=status_pb2.Status(code=status),
        denied_response=auth.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=code), body=body, headers=headers
        ),
    )


class Authorization(service.AuthorizationServicer):
    def Check(self, request, context):
        path = request.attributes.request.http.path.split("?")[0]
        asked = base64.b64encode(json_format.MessageToJson(request).encode()).decode()
        if path == "/yes":
            ok = auth.OkHttpResponse(
                headers=[header("x-role", "admin"), header("x-asked", asked)],
                response_headers_to_add=[header("x-verdict", "fine")],
            )
            return auth.CheckResponse(status=status_pb2.Status(code=0), ok_response=ok)
        if path == "/no":
            return auth.CheckResponse(status=status_pb2.Status(code=7))
        if path == "/teapot":
            return denied(418, "short and stout", [header("x-why", "tea")])
        if path == "/unauthenticated":
            return denied(401, "who?", status=16)
        if path == "/nothing":
            return auth.CheckResponse()
        if path == "/bare":
            return auth.CheckResponse(status=status_pb2.Status(code=0))
        if path == "/redirect":
            return denied(302, "", [header("location", "https://elsewhere.example")])
        if path == "/slow":
            time.sleep(1)
            return auth.CheckResponse(
                status=status_pb2.Status(code=0), ok_response=auth.OkHttpResponse()
            )
        context.abort(grpc.StatusCode.INTERNAL, "as asked")


server = grpc.server(futures.ThreadPoolExecutor(8))
service.add_AuthorizationServicer_to_server(Authorization(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
server.stop(None)
