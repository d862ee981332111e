#!/usr/bin/env python3
"""Makes the images' archives of programs that were built on this machine: no registry, no daemon, no other tool.

Each archive is an OCI image layout (image-spec 1.0) that is what `docker save` writes, too, so that `ctr images import`,
`docker load`, `podman load` and `skopeo copy oci-archive:` all take it. An image has one layer: the program, and of this
machine the libraries that it is linked with, if it is not static. The same files give the same bytes: names are sorted,
owners are 0, times are SOURCE_DATE_EPOCH, nothing is compressed.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Where programs look for others; a runtime's own default need not have these.
SEARCH = "/usr/bin:/usr/sbin"

# What each image is. `chart` and `inject` name the users and programs again; a test compares them.
IMAGES = {
    "sidecar": {
        "title": "Signet's sidecar and gateway",
        "programs": ["signet-sidecar"],
        "static": True,
        "tools": [],
        "user": "2102:2102",
        "entrypoint": ["/usr/bin/signet-sidecar"],
    },
    "redirect": {
        "title": "Signet's redirection of a pod's connections",
        # The second is the CNI agent, which copies itself to its node.
        "programs": ["signet-sidecar", "signet-cni"],
        "static": True,
        "tools": ["nft"],
        # Only root has capabilities. The pod says which, and takes all others away.
        "user": "0:0",
        "entrypoint": ["/usr/bin/signet-sidecar", "redirect"],
    },
    "control-plane": {
        "title": "Signet's control plane, and its command line",
        "programs": ["signet-control-plane", "signet"],
        # A PKCS #11 module is a library that it loads.
        "static": False,
        "tools": [],
        "user": "2100:2100",
        "entrypoint": ["/usr/bin/signet-control-plane"],
    },
}


def fail(why):
    sys.exit(f"archive.py: {why}")


def needed(program):
    """The libraries and the loader that a program is started with; none where it is static."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, env={"LC_ALL": "C", "PATH": os.environ["PATH"]})
    # A static program is none to ldd: it says so and fails, or says "statically linked".
    if "not a dynamic executable" in said.stderr or "statically linked" in said.stdout:
        return []
    if said.returncode != 0:
        fail(f"ldd {program}: {said.stderr.strip()}")
    if "not found" in said.stdout:
        fail(f"{program} needs what is not on this machine:\n{said.stdout}")
    return sorted(set(re.findall(r"(/\S+) \(0x", said.stdout)))


def tool(name):
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return found or fail(f"{name} is not on this machine")


def contents(image, folder):
    """Where in the image, and which file of this machine."""
    files = {}
    for name in image["programs"]:
        program = Path(folder, name)
        if not program.is_file():
            fail(f"{program} is not built")
        files[f"usr/bin/{name}"] = program
    for name in image["tools"]:
        files[f"usr/sbin/{name}"] = Path(tool(name))
    for program in list(files.values()):
        for library in needed(program):
            # By the name that it is asked for, with what that name means today.
            files[library.lstrip("/")] = Path(library).resolve()
    return files


def entry(name, when, mode):
    info = tarfile.TarInfo(name)
    info.mtime, info.mode = when, mode
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def folders(names):
    """Every folder above these."""
    above = set()
    for name in names:
        above.update(str(parent) for parent in Path(name).parents if str(parent) != ".")
    return above


def packed(files, when, mode):
    """A tar of names and their bytes."""
    out = io.BytesIO()
    # ustar: no headers that depend on who writes it.
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        above = folders(files)
        for name in sorted([*files, *above]):
            if name in above:
                info = entry(name, when, 0o755)
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info = entry(name, when, mode)
                info.size = len(files[name])
                tar.addfile(info, io.BytesIO(files[name]))
    return out.getvalue()


def archive(name, image, arguments):
    when, version = arguments.when, arguments.version
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
    folder = arguments.static if image["static"] and arguments.static else arguments.programs
    files = {place: path.read_bytes() for place, path in contents(image, folder).items()}
    layer = packed(files, when, 0o755)
    blobs = {}

    def blob(kind, content):
        if not isinstance(content, bytes):
            content = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    labels = {
        "org.opencontainers.image.title": image["title"],
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.created": created,
    }
    if arguments.revision:
        labels["org.opencontainers.image.revision"] = arguments.revision
    layer = blob("layer.v1.tar", layer)
    config = blob(
        "config.v1+json",
        {
            "architecture": arguments.architecture,
            "os": "linux",
            "created": created,
            "config": {
                "User": image["user"],
                "Entrypoint": image["entrypoint"],
                "Env": [f"PATH={SEARCH}"],
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            "history": [{"created": created, "created_by": "deploy/containers/archive.py"}],
        },
    )
    manifest = blob(
        "manifest.v1+json",
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer]},
    )
    called = f"{arguments.prefix}/signet-{name}:{version}"
    manifest |= {
        "annotations": {"io.containerd.image.name": called, "org.opencontainers.image.ref.name": version},
        "platform": {"architecture": arguments.architecture, "os": "linux"},
    }
    path = lambda descriptor: "blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")
    texts = {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]},
        # As `docker save` has it, for a docker that knows of no layouts.
        "manifest.json": [{"Config": path(config), "RepoTags": [called], "Layers": [path(layer)]}],
    }
    blobs |= {name: json.dumps(text, sort_keys=True, separators=(",", ":")).encode() for name, text in texts.items()}
    out = Path(arguments.out, f"signet-{name}-{version}-{arguments.architecture}.tar")
    out.write_bytes(packed(blobs, when, 0o644))
    print(f"{out}  {out.stat().st_size / 1e6:.1f} MB  {called}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", required=True, help="folder of the built programs")
    parser.add_argument("--static", help="folder of those that are linked statically, for the images that want it")
    parser.add_argument("--out", required=True, help="folder of the archives")
    parser.add_argument("--version", required=True)
    parser.add_argument("--prefix", default="localhost", help="what comes before the images' names")
    parser.add_argument("--revision", help="the commit")
    parser.add_argument("--architecture", default=ARCHITECTURES.get(platform.machine()))
    parser.add_argument("--image", action="append", choices=IMAGES, help="only this one")
    arguments = parser.parse_args()
    if not arguments.architecture:
        fail(f"expected --architecture amd64 or arm64 on {platform.machine()}")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", arguments.version):
        fail(f"--version: expected the tag of an image, got {arguments.version!r}")
    arguments.when = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    for name in arguments.image or IMAGES:
        archive(name, IMAGES[name], arguments)


if __name__ == "__main__":
    main()
