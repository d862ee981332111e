"""Verifies a transaction token as an app would: by the keys that its sidecar gives it.

Arguments: the address of the app's door, the trust domain, and tokens. Prints what each says, one JSON object a line.
"""

import json
import sys
import time
import urllib.request

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter

address, trust_domain, *tokens = sys.argv[1:]
request = urllib.request.Request(f"http://{address}/jwks")
known = JWSRegistry(header_registry={"dlg": HeaderParameter("Delegation", "str")}, algorithms=["ES256"])
known.max_header_length = 4096
keys = KeySet.import_key_set(json.load(urllib.request.urlopen(request)))
for token in tokens:
    decoded = jwt.decode(token, keys, registry=known)
    claims = decoded.claims
    assert decoded.header["typ"] == "txntoken+jwt"
    assert claims["aud"] == claims["iss"] == trust_domain and claims["exp"] > time.time()
    head, payload, signature = token.split(".")
    for forged in (f"{head}.{payload}.{signature[::-1]}", f"{head}.{payload[:-4]}AAAA.{signature}"):
        try:
            jwt.decode(forged, keys, registry=known)
            sys.exit("a forged token was taken")
        except (JoseError, ValueError):
            pass
    print(json.dumps({"sub": claims["sub"], "scope": claims["scope"]}))
