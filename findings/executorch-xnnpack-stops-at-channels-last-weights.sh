#!/usr/bin/env bash
# ExecuTorch's XNNPACK backend stops at a network whose weights are in channels_last.
#
# executorch 1.5.1 (torch 2.14.1): a convolution lowers, runs, and gives what torch gives. The same convolution after
# `.to(memory_format=torch.channels_last)`, which is how networks are kept that are to be fast on a CPU or a GPU,
# exports as before, and the lowering fails in a pass of ExecuTorch's own:
#
#   An error occurred when running the 'ChannelsLastTaggedReshapePass' pass after the following passes: []
#
# The message says nothing of weights; the cause behind it is an assertion that one weight is in NCHW. XNNPACK itself
# computes in channels_last, so one would rather expect the opposite. `.to(memory_format=torch.contiguous_format)` before
# the export is the way round. Seen 2026-11-28.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q executorch==1.5.1 torch==2.14.1

cat > lower.py <<'PY'
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime

torch.manual_seed(0)
image = torch.rand(1, 3, 16, 16)


def lowered(memory_format: torch.memory_format) -> str:
    network = torch.nn.Conv2d(3, 8, 3, padding=1).eval().to(memory_format=memory_format)
    program = torch.export.export(network, (image,))
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    with open("network.pte", "wb") as file:
        file.write(edge.to_executorch().buffer)
    (found,) = Runtime.get().load_program("network.pte").load_method("forward").execute([image])
    with torch.no_grad():
        return f"difference from torch {(found - network(image)).abs().max():.0e}"


print("contiguous:", lowered(torch.contiguous_format))
try:
    print("channels_last:", lowered(torch.channels_last))
except Exception as error:
    print("channels_last:", error)
    print("caused by:", error.__cause__)
PY
venv/bin/python lower.py 2> warnings.txt | tee told.txt
grep -qE "^contiguous: difference from torch ([0-9]e-0[6-9]|0e\+00)" told.txt
grep -q "^channels_last: An error occurred when running the 'ChannelsLastTaggedReshapePass' pass" told.txt
grep -q "^caused by: Expected p_weight to be NCHW" told.txt
