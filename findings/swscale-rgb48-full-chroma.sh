#!/usr/bin/env bash
# swscale 9 (FFmpeg 8.1, in PyAV 18.1.0): yuv420p10le -> rgb48le with SWS_BILINEAR | SWS_FULL_CHR_H_INT gives a frame of
# one colour other values in every row but the first, some of them 0. Without the flag, with SWS_BICUBIC beside it, or to
# gbrp16le, all rows are right. Hence glare/video/reading.py reads deep frames as gbrpf32le.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PYTHON'
import av
import numpy as np

BILINEAR, BICUBIC, FULL_CHROMA = 2, 4, 0x2000
frame = av.VideoFrame(48, 32, "yuv420p10le")
for plane, value in zip(frame.planes, (301, 400, 600)):
    plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())


def rows(form, flags):
    image = frame.reformat(format=form, interpolation=flags).to_ndarray()
    return image[0, 0].tolist(), image[1, 0].tolist(), image[-1, 0].tolist()


right = rows("rgb48le", BILINEAR)
wrong = rows("rgb48le", BILINEAR | FULL_CHROMA)
print("first, second, last row without the flag:", *right)
print("first, second, last row with it:         ", *wrong)
assert right[0] == right[1] == right[2]
for form, flags in (("rgb48le", BICUBIC | FULL_CHROMA), ("gbrp16le", BILINEAR | FULL_CHROMA)):
    other = rows(form, flags)
    assert other[0] == other[1] == other[2], other
assert wrong[0] == right[0], "the first row is no longer right"
assert wrong[1] == wrong[2] != wrong[0], "the rows are equal: it is mended"
print("still so")
PYTHON
