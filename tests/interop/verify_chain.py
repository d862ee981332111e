"""PyPI `cryptography` looks at a chain of the mesh: verify_chain.py ROOT.pem CHAIN.pem [DNS name]

Verifies the leaf as a client's certificate and, with a name, as a server's; prints what the leaf says.
"""

import sys

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store


def main(root_file, chain_file, name=None):
    with open(root_file, "rb") as file:
        roots = x509.load_pem_x509_certificates(file.read())
    with open(chain_file, "rb") as file:
        leaf, *between = x509.load_pem_x509_certificates(file.read())
    builder = PolicyBuilder().store(Store(roots))
    verified = builder.build_client_verifier().verify(leaf, between)
    print("client", [type(subject).__name__ for subject in verified.subjects or []])
    if name is not None:
        chain = builder.build_server_verifier(x509.DNSName(name)).verify(leaf, between)
        print("server", len(chain))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    print("uri", *names.get_values_for_type(x509.UniformResourceIdentifier))


main(*sys.argv[1:])
