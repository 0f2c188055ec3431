"""Condense the full parity arrays into what the tests carry: ``python make_reference.py FOLDER_OF_FULL_ARRAYS``."""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SAMPLES = 48


def sample(array: np.ndarray) -> np.ndarray:
    """Up to `SAMPLES` values, evenly spread over the flattened array."""
    flat = array.reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(int)]


def main(source: Path) -> None:
    manifest = json.loads((source / "manifest.json").read_text())["state_dict"]
    keys = {
        ours: {key: entry["shape"] for key, entry in manifest[theirs].items()}
        for ours, theirs in (("netg", "netG_stage3"), ("vqgan", "net_hq"))
    }
    (HERE / "official_keys.json").write_text(json.dumps(keys, separators=(",", ":")))
    arrays = dict(np.load(source / "golden_ch32.npz"))
    samples = {}
    for name, array in arrays.items():
        whole = array.dtype.kind == "i"
        values = array.reshape(-1).tolist() if whole else [float(f"{v:.8g}") for v in sample(array)]
        samples[name] = {"shape": list(array.shape), "values": values}
    gradients = {
        loss: {key: float(f"{norm:.6g}") for key, norm in norms.items()}
        for loss, norms in json.loads((source / "golden_ch32_gradnorms.json").read_text()).items()
    }
    scalars = json.loads((source / "golden_ch32_scalars.json").read_text())
    scalars = {k: v for k, v in scalars.items() if not isinstance(v, list)}
    reference = {"arrays": samples, "gradient_norms": gradients, "scalars": scalars}
    (HERE / "reference_ch32.json").write_text(json.dumps(reference, separators=(",", ":")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
