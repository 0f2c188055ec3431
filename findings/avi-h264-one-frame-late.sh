#!/usr/bin/env bash
# libavformat 62 (FFmpeg 8.1, in PyAV 18.1.0) reads H.264 in AVI one frame late: a stream without B-frames, written with
# the stamps 0, 1, 2 ..., comes back with 1, 2, 3 ..., while its dts and its start_time say 0. MPEG-4 Part 2 in AVI and
# the same H.264 in MP4 come back as they were. Sound beside it is so ahead by a frame. Hence glare/video/reading.py
# lets the frames of an AVI begin where its stream says that it starts, and writes MPEG-4 Part 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from fractions import Fraction

import av


def stamps(name, codec):
    with av.open(name, "w") as file:
        video = file.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.codec_context.max_b_frames = 0
        video.codec_context.time_base = Fraction(1, 25)
        for number in range(4):
            frame = av.VideoFrame(48, 32, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
    with av.open(name) as file:
        start = file.streams.video[0].start_time * file.streams.video[0].time_base
        packets = [packet for packet in file.demux(video=0) if packet.size]
        shown = [str(packet.pts * packet.time_base) for packet in packets]
        decoded = [str(packet.dts * packet.time_base) for packet in packets]
    with av.open(name) as file:
        assert [str(frame.pts * frame.time_base) for frame in file.decode(video=0)] == shown
    print(f"{name:10} {codec:8} starts at {start}, pts {shown}, dts {decoded}")
    return shown


right = ["0", "1/25", "2/25", "3/25"]
assert stamps("a.mp4", "libx264") == right
assert stamps("a.avi", "mpeg4") == right
assert stamps("b.avi", "libx264") == ["1/25", "2/25", "3/25", "4/25"], "it is mended"
print("still so")
PYTHON
