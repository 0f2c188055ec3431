#!/usr/bin/env bash
# `import torchvision` 0.29.1 imports torch._dynamo (95 modules, and sympy), which `import torch` 2.14.1 leaves alone:
# each process that only reads or resizes a picture pays for the compiler, about as long as for torch itself (torch 3.7
# s, torchvision 3.3 s beside other work on two cores; 2.8 of 3.0 s are dynamo by -X importtime).
# torchvision.ops.roi_align asks torch._dynamo.utils at its head whether compiling is supported, a few lines above a
# wrapper that is there so that dynamo is not imported. Every command and worker that imports this library starts later
# by as much; nothing here can prevent it, as torchvision's own __init__ imports its detectors.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time


def compiler():
    return sum(name.startswith("torch._dynamo") for name in sys.modules)


start = time.perf_counter()
import torch

alone = compiler()
between = time.perf_counter()
import torchvision

end = time.perf_counter()
print(f"torch {torch.__version__} in {between - start:.1f} s: {alone} modules of torch._dynamo")
print(f"torchvision {torchvision.__version__} in {end - between:.1f} s more: {compiler()}")
assert alone == 0
assert compiler() > 50, "it is mended"
print("still so")
PYTHON
