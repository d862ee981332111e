"""Reads a bundle document and a revocation list with jwcrypto and cryptography, and says what does not hold.

Arguments: the document, the root, a revoked certificate's chain and its issuer (PEM), the bundle endpoint's address.
"""

import base64
import json
import ssl
import sys
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto import jwk

document, root, chain, issuer, address = sys.argv[1:]
text = open(document, encoding="utf-8").read()
parsed = json.loads(text)
root = x509.load_pem_x509_certificate(open(root, "rb").read())
leaf = x509.load_pem_x509_certificates(open(chain, "rb").read())[0]
issuer = x509.load_pem_x509_certificate(open(issuer, "rb").read())


def spki(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


assert isinstance(parsed["spiffe_sequence"], int) and isinstance(parsed["spiffe_refresh_hint"], int)
keys = parsed["keys"]
assert len(jwk.JWKSet.from_json(text)["keys"]) == len(keys)
roots = [key for key in keys if key["use"] == "x509-svid"]
assert len(roots) == 1 and "kid" not in roots[0]
certificate = x509.load_der_x509_certificate(base64.b64decode(roots[0]["x5c"][0], validate=True))
assert certificate == root
# The members describe the certificate's key.
described = jwk.JWK(**{name: value for name, value in roots[0].items() if name not in ("use", "x5c")})
assert spki(described.get_op_key("verify")) == spki(root.public_key())
for key in keys:
    assert key["use"] != "jwt-svid" or key["kid"]

# The endpoint presents an SVID, which has no name that Python would know: the root vouches, the name is not asked.
context = ssl.create_default_context(cadata=root.public_bytes(Encoding.PEM).decode())
context.check_hostname = False


def fetch(path):
    with urllib.request.urlopen(f"https://{address}{path}", context=context) as answer:
        return answer.headers["content-type"], answer.read()


content_type, served = fetch("/bundle")
assert content_type == "application/json" and served.decode() == text
content_type, der = fetch(f"/crl/{issuer.serial_number:x}.crl")
assert content_type == "application/pkix-crl"
crl = x509.load_der_x509_crl(der)
assert crl.is_signature_valid(issuer.public_key()) and crl.issuer == issuer.subject
revoked = crl.get_revoked_certificate_by_serial_number(leaf.serial_number)
assert revoked is not None and len(crl) == 1
named = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
assert named == issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number > 0
print("all claims hold")
