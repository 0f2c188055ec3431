#!/usr/bin/env bash
# libavformat 62 (FFmpeg 8.1, in PyAV 18.1.0) writes the language of a track into .mov in one spelling of ISO 639-2 for each
# language, and of some drops the other without a word: "ger", "dut", "chi" stay and "deu", "nld", "zho" come back as
# nothing, while of French and Czech it is "fra" and "ces" that stay and "fre" and "cze" that vanish. So neither the
# bibliographic codes (which Matroska asks for) nor the terminological ones pass whole. The same tracks in MP4 and Matroska
# keep every spelling; AVI keeps none. Hence glare/video/writing.py spells languages for .mov, reads the written file, and
# tells which ones were lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io

import av


def read_back(language, container):
    data = io.BytesIO()
    with av.open(data, "w", format=container) as file:
        video = file.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        video.metadata["language"] = language
        frame = av.VideoFrame(32, 32, "yuv420p")
        frame.pts = 0
        file.mux(video.encode(frame))
        file.mux(video.encode(None))
    data.seek(0)
    with av.open(data) as file:
        return file.streams.video[0].metadata.get("language")


codes = ["ger", "deu", "dut", "nld", "chi", "zho", "fre", "fra", "cze", "ces", "jpn"]
for container in ("mov", "mp4", "matroska", "avi"):
    kept = [code for code in codes if read_back(code, container) == code]
    print(f"{container:9} keeps {kept}")
    expected = {"mov": ["ger", "dut", "chi", "fra", "ces", "jpn"], "avi": []}.get(container, codes)
    assert kept == expected, "it is mended"
print("still so")
PYTHON
