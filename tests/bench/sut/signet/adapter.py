"""Signet's pair: a control plane that issues the certificates, and two sidecars. It measures the binaries of
target/release unless SIGNET_BIN names another folder. The control plane stands aside: only the sidecars' CPU counts."""
import json
import os
import pathlib
import subprocess
import time

from common import APP_HTTP, APP_TCP, PORTS, Adapter as Base, sh, wait_port

ROOT = pathlib.Path(__file__).resolve().parents[4]
BIN = pathlib.Path(os.environ.get("SIGNET_BIN", ROOT / "target" / "release"))
PROTOCOL = {"h1": "http", "h2": "http2", "tcp": "tcp"}

REGISTRY = """\
apiVersion: signet.mesh/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {defaultAction: deny}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: bench, name: client}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: bench, name: server}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: bench, name: server}
spec:
  ports: [{name: app, port: 80, protocol: %(protocol)s}]
  endpoints: [{address: 127.0.0.1, ports: {app: %(inbound)s}, identity: ns/bench/sa/server}]
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: bench, name: client-may}
spec: {effect: permit, target: {service: server}, from: {workloads: [ns/bench/sa/client]}}
"""

CONTROL_PLANE = """\
trustDomain: bench.signet
dataDir: %(dir)s/cp
seal: {keyFile: %(dir)s/cp/seal.key}
dev: true
registry: {folder: %(dir)s/registry}
listen: {bootstrap: '127.0.0.1:0', mesh: '127.0.0.1:0'}
operator: {socket: %(dir)s/op.sock}
svid: {ttlSeconds: 3600}
log: {format: text, level: warn}
"""

SIDECAR = """\
role: sidecar
identity: {joinBundle: %(dir)s/%(name)s/join.json}
dataDir: %(dir)s/%(name)s/data
admin: {socket: %(dir)s/%(name)s/admin.sock}
workers: 1
tls: {resumption: %(resumption)s}
log: {format: text, level: warn}
"""


class Adapter(Base):
    name = "signet"
    modes = ("h1", "h2", "tcp")
    note = "policy permits one caller by identity; a request without a user"

    def available(self):
        if all((BIN / n).exists() for n in ("signet-control-plane", "signet-sidecar", "signet")):
            return True, ""
        return False, f"build it first: no binaries in {BIN}"

    def version(self):
        return sh(str(BIN / "signet-sidecar"), "--version")

    def launch(self, mode):
        os.umask(0o077)
        out, inbound = PORTS[mode]
        d = self.dir
        (d / "registry").mkdir()
        (d / "registry" / "mesh.yaml").write_text(REGISTRY % {"protocol": PROTOCOL[mode], "inbound": inbound})
        (d / "control-plane.yaml").write_text(CONTROL_PLANE % {"dir": d})
        self.run("control-plane", [str(BIN / "signet-control-plane"), "--config", str(d / "control-plane.yaml")])
        self.wait_file(d / "cp" / "addresses.json")
        app = APP_TCP if mode == "tcp" else APP_HTTP
        extra = {
            "client": f"outbound: [{{listen: '127.0.0.1:{out}', service: server.bench, port: app}}]\n",
            "server": f"inbound: [{{service: server.bench, port: app, listen: '127.0.0.1:{inbound}', app: 'tcp:127.0.0.1:{app}'}}]\n",
        }
        procs = {}
        for name in ("server", "client"):
            (d / name / "data").mkdir(parents=True)
            (d / name / "sidecar.yaml").write_text(SIDECAR % {"dir": d, "name": name, "resumption": "false" if mode == "tcp" else "true"} + extra[name])
            subprocess.run([str(BIN / "signet"), "--socket", str(d / "op.sock"), "join",
                            f"spiffe://bench.signet/ns/bench/sa/{name}", "--out", str(d / name / "join.json")],
                           check=True, stdout=subprocess.DEVNULL)
            procs[name] = self.run(name, [*self.wrap(name), str(BIN / "signet-sidecar"), "--config", str(d / name / "sidecar.yaml")])
            self.wait_file(d / name / "data" / "addresses.json")
        wait_port("127.0.0.1", out, proc=procs["client"])
        return procs["client"], procs["server"], f"127.0.0.1:{out}"

    def mtls(self, mode):
        return "127.0.0.1", PORTS[mode][1]

    def wrap(self, name):
        """A profiler in front of a sidecar, e.g. SIGNET_WRAP_server='valgrind --tool=callgrind'."""
        return os.environ.get(f"SIGNET_WRAP_{name}", "").split()

    @staticmethod
    def wait_file(path, secs=60):
        end = time.time() + secs
        while time.time() < end:
            if path.exists():
                json.loads(path.read_text())
                return
            time.sleep(0.02)
        raise RuntimeError(f"{path} did not appear")


ADAPTERS = [Adapter]
