"""The network against the official one, on weights and images that are a function of names.

The numbers in ``parity/`` were measured on the official network at width 32 (``parity/make_reference.py`` condenses
them); where the environment variable GLARE_PARITY names a folder with the full arrays, those are compared too.
"""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glare.config import GLAREConfig
from glare.flow import ActNorm, negative_log_likelihood
from glare.model import GLARE
from glare.official import from_official, official_names
from tests.glare.parity import formula
from tests.glare.parity.make_reference import sample

FOLDER = Path(__file__).parent / "parity"
KEYS = json.loads((FOLDER / "official_keys.json").read_text())
REFERENCE = json.loads((FOLDER / "reference_ch32.json").read_text())
SHARED = Path(__file__).parents[3] / "shared" / "parity"
FULL = Path(os.environ.get("GLARE_PARITY", SHARED))

#: Absolute tolerance of each array; 1e-4 where not named.
TOLERANCE = {"gt_latent": 5e-5, "flow_inverse_latent": 5e-5, "z_q": 5e-5}
#: The log-determinants and likelihoods are compared relatively.
RELATIVE = {"flow_inverse_logdet", "flow_forward_logdet", "flow_forward_layer_logdets"}
RELATIVE |= {"nll_colormap_mean", "nll_gt_mean", "actnorm_init_nll"}


def official(config: GLAREConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The official ``state_dict``s at the widths of ``config``, without the dead keys, as the formula has them."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in GLARE(config).state_dict().items()}
    result: dict[str, dict[str, Tensor]] = {"netg": {}, "vqgan": {}}
    for ours, (source, key) in official_names(KEYS["netg"], KEYS["vqgan"]).items():
        result[source][key] = formula.tensor(key, list(shapes[ours]))
    return result["netg"], result["vqgan"]


@cache
def network() -> GLARE:
    return from_official(*official(GLAREConfig(channels=32)))


@cache
@torch.no_grad()
def arrays() -> dict[str, Tensor]:
    """Every array of the reference, computed by our network."""
    model, (gt, low) = network(), formula.images()
    got: dict[str, Tensor] = {}
    layers: dict[str, list[Tensor]] = {"inverse": [], "forward": [], "log_dets": []}

    def remember(name: str, index: int | None = None):  # type: ignore[no-untyped-def]
        def hook(module: torch.nn.Module, args: object, output: Tensor) -> None:
            got[name] = output if index is None else output[index]

        return hook

    fusion = model.fusion
    handles = [
        model.condition.encoder.register_forward_hook(remember("encoder_out", 0)),
        model.codebook.post_quant_conv.register_forward_hook(remember("post_quant")),
        fusion.warp["1"].offsets.register_forward_hook(remember("dcn_offset_mask_raw0")),
        *(fusion.mix[str(1 - i)].register_forward_hook(remember(f"mix{i}")) for i in range(2)),
        *(fusion.warp[str(1 - i)].register_forward_hook(remember(f"warp{i}")) for i in range(2)),
    ]
    condition = model.condition(low)
    got["cond_feat"], got["color_map"], (got["mid_feat0"], got["mid_feat1"]) = condition
    z, log_det = model.flow.inverse(condition.mean, condition.feature)
    got["flow_inverse_latent"], got["flow_inverse_logdet"] = z, log_det
    got["z_q"], indices, _ = model.codebook.quantize(z)
    got["quant_indices"] = indices
    got["vq_dec"], features = model.codebook.decode(z)
    got["code_feat1"], got["code_feat0"] = features
    got["restored"] = fusion(z, [*features, None], condition.skips, 1.0)
    for handle in handles:
        handle.remove()

    codes = model.codebook.quantizer.embedding.weight
    distances = torch.cdist(z[0].flatten(1).T.double(), codes.double()).square().topk(2, largest=False)[0]
    got["quant_margin_top2_sqdist"] = distances[:, 1] - distances[:, 0]
    got["gt_latent"] = model.codebook.encode(gt)
    got["gt_quant_indices"] = model.codebook.quantize(got["gt_latent"])[1]
    got["gt_vq_dec"] = model.codebook.decode(got["gt_latent"])[0]

    back = condition.mean
    for step in reversed(model.flow.steps):  # type: ignore[call-overload]
        back, _ = step.inverse(back, condition.feature)
        layers["inverse"].insert(0, back)
    got["flow_inverse_layer_outputs"] = torch.cat(layers["inverse"])
    v, total = got["gt_latent"], torch.zeros(1)
    for step in model.flow.steps:
        v, step_log_det = step(v, condition.feature)
        total = total + step_log_det
        layers["forward"].append(v)
        layers["log_dets"].append(total)
    got["flow_forward_layer_outputs"] = torch.cat(layers["forward"])
    got["flow_forward_layer_logdets"] = torch.cat(layers["log_dets"])
    v, log_det = model.flow(got["gt_latent"], condition.feature)
    got["flow_forward_z"], got["flow_forward_logdet"] = v, log_det
    got["nll_colormap_mean"] = negative_log_likelihood(v, condition.mean, log_det)
    got["nll_gt_mean"] = negative_log_likelihood(v, got["gt_latent"], log_det)

    # The official test protocol: 20 mirrored pixels at the left and at the bottom.
    padded = F.pad(low, (20, 0, 0, 20), mode="reflect")
    got["restored_padded_protocol"] = model(padded)[..., : low.shape[2], 20:]

    fresh = from_official(*official(GLAREConfig(channels=32)))
    for module in fresh.modules():
        if isinstance(module, ActNorm):
            torch.nn.init.zeros_(module.bias)
            torch.nn.init.zeros_(module.logs)
    condition = fresh.condition(low)
    fresh.flow.start_from_data(got["gt_latent"], condition.feature)
    state = fresh.state_dict()
    names = official_names(KEYS["netg"], KEYS["vqgan"])
    actnorms = sorted((key, ours) for ours, (_, key) in names.items() if ".actnorm." in key)
    got["actnorm_init_concat"] = torch.cat([state[ours].flatten() for _, ours in actnorms])
    v, log_det = fresh.flow(got["gt_latent"], condition.feature)
    got["actnorm_init_z"] = v
    got["actnorm_init_nll"] = negative_log_likelihood(v, condition.mean, log_det)
    return got


def compare(name: str, got: np.ndarray, expected: np.ndarray) -> None:
    if expected.dtype.kind == "i":
        np.testing.assert_array_equal(got, expected)
    elif name in RELATIVE:
        np.testing.assert_allclose(got, expected, rtol=1e-4)
    else:
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE.get(name, 1e-4))


@cache
@torch.no_grad()
def arrays_of_the_optimized() -> dict[str, Tensor]:
    model, low = network().optimize(), formula.images()[1]
    condition = model.condition(low)
    z, log_det = model.flow.inverse(condition.mean, condition.feature)
    z_q, indices, _ = model.codebook.quantize(z)
    padded = F.pad(low, (20, 0, 0, 20), mode="reflect")
    return {
        "flow_inverse_latent": z,
        "flow_inverse_logdet": log_det,
        "z_q": z_q,
        "quant_indices": indices,
        "restored": model(low),
        "restored_padded_protocol": model(padded)[..., : low.shape[2], 20:],
    }


@pytest.mark.parametrize("name", sorted(arrays_of_the_optimized()))
def test_samples_of_the_optimized(name: str) -> None:
    expected = np.asarray(REFERENCE["arrays"][name]["values"])
    got = arrays_of_the_optimized()[name].numpy()
    compare(name, got.reshape(-1) if expected.dtype.kind == "i" else sample(got), expected)


@pytest.mark.parametrize("name", sorted(REFERENCE["arrays"]))
def test_samples_of_every_array(name: str) -> None:
    reference = REFERENCE["arrays"][name]
    got = arrays()[name].numpy()
    assert got.size == np.prod(reference["shape"])
    expected = np.asarray(reference["values"])
    compare(name, got.reshape(-1) if expected.dtype.kind == "i" else sample(got), expected)


@pytest.mark.skipif(
    not (FULL / "golden_ch32.npz").exists(), reason="GLARE_PARITY names no folder of full arrays"
)
@pytest.mark.parametrize("name", sorted(REFERENCE["arrays"]))
def test_every_array_in_full(name: str) -> None:
    expected = np.load(FULL / "golden_ch32.npz")[name]
    compare(name, arrays()[name].numpy().reshape(expected.shape), expected)


def test_whole_network_is_the_sum_of_its_parts() -> None:
    with torch.no_grad():
        torch.testing.assert_close(network()(formula.images()[1]), arrays()["restored"], rtol=0, atol=1e-4)


def gaussian_ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """MS-SSIM as the official training measures it: the coarsest term enters once per other scale."""
    weights_ = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    terms = []
    for _ in weights_:
        size = min(11, *x.shape[2:])
        line = torch.exp(-(torch.arange(size) - size // 2).square() / (2 * 1.5**2))
        window = (line[:, None] * line[None] / line.sum() ** 2).expand(3, 1, size, size)
        mean_x, mean_y, xx, yy, xy = (F.conv2d(t, window, groups=3) for t in (x, y, x * x, y * y, x * y))
        structure = (2 * (xy - mean_x * mean_y) + 9e-4) / (xx - mean_x**2 + yy - mean_y**2 + 9e-4)
        luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        terms.append(torch.stack(((luminance * structure).mean(), structure.mean())))
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    both = (torch.stack(terms) + 1) / 2
    return torch.prod(both[:-1, 1] ** weights_[:-1] * both[-1, 0] ** weights_[-1])


def check_gradients(model: GLARE, norms: dict[str, float]) -> None:
    names = {key: ours for ours, (_, key) in official_names(KEYS["netg"], KEYS["vqgan"]).items()}
    parameters = dict(model.named_parameters())
    for key, norm in norms.items():
        grad = parameters[names[key]].grad
        assert grad is not None, key
        # Softmax ignores a shift of the keys: their bias has no gradient but rounding.
        assert grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-7), key


def test_gradients_of_the_likelihood() -> None:
    model, (gt, low) = from_official(*official(GLAREConfig(channels=32))), formula.images()
    with torch.no_grad():
        latent = model.codebook.encode(gt)
    condition = model.condition(low)
    v, log_det = model.flow(latent, condition.feature)
    negative_log_likelihood(v, condition.mean, log_det).mean().backward()
    check_gradients(model, REFERENCE["gradient_norms"]["stage2_nll"])


def test_gradients_of_the_restoration() -> None:
    model, (gt, low) = from_official(*official(GLAREConfig(channels=32))), formula.images()
    with torch.no_grad():
        latent, condition = model.restore_latent(low)
        features = model.code_features(latent)
    image = model.fusion(latent, features, condition.skips).clamp(0, 1)
    smooth_l1, similarity = F.smooth_l1_loss(image, gt), gaussian_ms_ssim(image, gt)
    assert smooth_l1.item() == pytest.approx(REFERENCE["scalars"]["stage3_l1_smooth"], rel=1e-4)
    assert similarity.item() == pytest.approx(REFERENCE["scalars"]["msssim_normalize_true"], rel=1e-4)
    (smooth_l1 + 0.2 * (1 - similarity)).backward()
    check_gradients(model, REFERENCE["gradient_norms"]["stage3_l1_plus_ssim"])
