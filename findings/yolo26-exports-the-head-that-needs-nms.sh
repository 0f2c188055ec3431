#!/usr/bin/env bash
# ultralytics 8.4.190: YOLO26, the model that was made to need no non-maximum suppression, is exported by default with the
# head that does need it. `export(format="onnx")` gives raw candidates (1, 84, N) and the metadata `end2end: False`; only
# `nms=False`, which reads as "without suppression", gives the end-to-end head's list of boxes (1, 300, 6) and
# `end2end: True`; `nms=True` gives a list of the same shape from the other head, with NonMaxSuppression in the graph. So
# a program that reads rows of boxes from "the YOLO26 ONNX" reads garbage, and three files of one model find other boxes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q ultralytics==8.4.190 torch==2.14.1 torchvision==0.29.1 onnx==1.23.2 onnxruntime==1.32.0
YOLO_AUTOINSTALL=False venv/bin/python - <<'PY' 2>/dev/null | tee seen.txt
import onnx
from ultralytics import YOLO

for asked in ({}, {"nms": False}, {"nms": True}):
    file = YOLO("yolo26n.yaml").export(format="onnx", imgsz=160, verbose=False, **asked)
    model = onnx.load(file)
    shape = [side.dim_value for side in model.graph.output[0].type.tensor_type.shape.dim]
    about = {entry.key: entry.value for entry in model.metadata_props}
    suppresses = any(node.op_type == "NonMaxSuppression" for node in model.graph.node)
    print("SEEN", asked, shape, "end2end", about["end2end"], "NonMaxSuppression", suppresses)
PY
diff <(grep ^SEEN seen.txt) - <<'EXPECTED'
SEEN {} [1, 84, 525] end2end False NonMaxSuppression False
SEEN {'nms': False} [1, 300, 6] end2end True NonMaxSuppression False
SEEN {'nms': True} [1, 300, 6] end2end False NonMaxSuppression True
EXPECTED
echo "as described"
