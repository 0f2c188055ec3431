"""The network and a detector in one ONNX file: image in, boxes out, in one session without Python.

Between the two lies the letterbox that YOLO detectors are trained behind: the image is scaled to fit a square
(bilinear, without a filter against aliasing, as OpenCV does it) and padded with grey on both sides; see ultralytics'
``LetterBox`` and ``scale_boxes``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glare.export import OPSET
from glare.files import whole_file

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

#: The grey beside a letterboxed image, of 1.
GREY = 114 / 255

# Sizes are (height, width). `Round` goes to the even neighbour at a half, as Python's does.
_LETTERBOX = """
<ir_version: {ir}, opset_import: ["": {opset}]>
letterbox (float[1, 3, H, W] enhanced)
    => (float[1, 3, {side}, {side}] boxed, float[2] ratio, int64[2] before, int64[2] size)
{{
    size = Shape <start = 2, end = 4> (enhanced)
    target = Constant <value_ints = [{side}, {side}]> ()
    size_ = Cast <to = 1> (size)
    target_ = Cast <to = 1> (target)
    ratios = Div (target_, size_)
    least = ReduceMin <keepdims = 1> (ratios)
    exact = Mul (size_, least)
    rounded = Round (exact)
    one = Constant <value_float = 1.0> ()
    scaled_ = Max (rounded, one)
    scaled = Cast <to = 7> (scaled_)
    ratio = Div (scaled_, size_)
    channels = Constant <value_ints = [1, 3]> ()
    shape = Concat <axis = 0> (channels, scaled)
    fit = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (enhanced, , , shape)
    room = Sub (target, scaled)
    room_ = Cast <to = 1> (room)
    half = Constant <value_floats = [0.5]> ()
    tenth = Constant <value_floats = [0.1]> ()
    middle = Mul (room_, half)
    middle_ = Sub (middle, tenth)
    before_ = Round (middle_)
    before = Cast <to = 7> (before_)
    after = Sub (room, before)
    none = Constant <value_ints = [0, 0]> ()
    pads = Concat <axis = 0> (none, before, none, after)
    grey = Constant <value_float = {grey}> ()
    boxed = Pad <mode = "constant"> (fit, pads, grey)
}}
"""

# Back to the pixels of the image, cut to it: x1, y1, x2, y2, and what stands beside them as it is.
_UNBOX = """
<ir_version: {ir}, opset_import: ["": {opset}]>
unbox (float[1, N, 6] rows, float[2] ratio, int64[2] before, int64[2] size) => (float[1, N, 6] boxes)
{{
    split = Constant <value_ints = [4, 2]> ()
    corners, beside = Split <axis = 2> (rows, split)
    order = Constant <value_ints = [1, 0, 1, 0]> ()
    offset = Gather (before, order)
    offset_ = Cast <to = 1> (offset)
    moved = Sub (corners, offset_)
    ratios = Gather (ratio, order)
    scaled = Div (moved, ratios)
    sides = Gather (size, order)
    sides_ = Cast <to = 1> (sides)
    capped = Min (scaled, sides_)
    zero = Constant <value_float = 0.0> ()
    cut = Max (capped, zero)
    boxes = Concat <axis = 2> (cut, beside)
}}
"""


def join_detector(network: str | Path, detector: str | Path, path: str | Path) -> Path:
    """Write the network, a letterbox and a detector as one ONNX file.

    The graph takes ``low``, (1,3,H,W) float32 RGB in [0,1], and returns ``image``, the enhanced one of the same shape,
    and ``boxes``, (1,N,6) float32: x1, y1, x2, y2 in pixels of ``low``, the score, and the number of the class. What
    the detector's file says of itself, such as the names of its classes, is kept (``metadata_props``).

    Args:
        network: a file that `glare.export.to_onnx` wrote.
        detector: a detector's ONNX file that takes one image (1,3,S,S) float32 RGB in [0,1] and returns rows (1,N,6)
            of x1, y1, x2, y2, score, class, such as ultralytics exports with ``nms=True``, or with ``nms=False`` of a
            model that has an end-to-end head.
        path: the file to write, in one piece.

    Returns:
        ``path``.

    Raises:
        ValueError: if the detector's file is no ONNX file, or takes or returns something else.
        ModuleNotFoundError: if the extra ``onnx`` is not installed.
    """
    path = Path(path)
    finder = read_detector(detector)
    import onnx
    from onnx import compose

    enhancer = onnx.load(network)
    ir = max(enhancer.ir_version, finder.ir_version)
    enhancer.ir_version = finder.ir_version = ir
    (taken,), (given,) = finder.graph.input, finder.graph.output
    letterbox, unbox = (_part(text, ir, _shape(taken)[2]) for text in (_LETTERBOX, _UNBOX))
    carried = [value.name for value in letterbox.graph.output[1:]]  # past the detector
    # Prefixes keep the names of the parts apart, but for those of the whole.
    whole = compose.merge_models(
        compose.add_prefix(enhancer, "enhancer/", rename_inputs=False, rename_outputs=False),
        compose.add_prefix(letterbox, "letterbox/"),
        io_map=[("image", "letterbox/enhanced")],
        outputs=["image", "letterbox/boxed", *(f"letterbox/{name}" for name in carried)],
    )
    whole = compose.merge_models(
        whole,
        compose.add_prefix(finder, "detector/"),
        io_map=[("letterbox/boxed", f"detector/{taken.name}")],
        outputs=["image", *(f"letterbox/{name}" for name in carried), f"detector/{given.name}"],
    )
    whole = compose.merge_models(
        whole,
        compose.add_prefix(unbox, "unbox/", rename_outputs=False),
        io_map=[
            (f"detector/{given.name}", "unbox/rows"),
            *((f"letterbox/{name}", f"unbox/{name}") for name in carried),
        ],
        outputs=["image", "boxes"],
    )
    onnx.checker.check_model(whole, full_check=True)
    with whole_file(path) as beside:
        onnx.save(whole, beside)
    return path


def read_detector(path: str | Path) -> ModelProto:
    """Read a detector's ONNX file for `join_detector`, in the operators of our own files; see there for errors."""
    try:
        import onnx
        from onnx import version_converter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Reading ONNX needs {error.name}: pip install 'glare-torch[onnx]'.", name=error.name
        ) from error
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file may lead protobuf's reader to any error
        raise ValueError(f"Expected a detector's ONNX file at {path} but got stuck: {error}") from error
    weights = {tensor.name for tensor in model.graph.initializer}  # which old files list among the inputs
    taken = [value for value in model.graph.input if value.name not in weights]
    given = list(model.graph.output)
    shapes = [_shape(value) for value in (*taken, *given)]
    match shapes:
        case [[1, 3, height, width], [1, _, 6]] if len(taken) == 1 and height and height == width:
            pass
        case _:
            told = ", ".join(f"{value.name} {_shape(value)}" for value in (*taken, *given))
            raise ValueError(
                f"Expected {path} to take an image (1, 3, S, S) and to return rows (1, N, 6) of x1, y1, x2, y2, score, "
                f"class, but it has {told}. ultralytics exports such a file with nms=True, or with nms=False of a "
                "model with an end-to-end head such as YOLO26."
            )
    del model.graph.input[:]
    model.graph.input.extend(taken)
    for value in (*taken, *given):
        if (kind := value.type.tensor_type.elem_type) != onnx.TensorProto.FLOAT:
            found = onnx.TensorProto.DataType.Name(kind).lower()
            raise ValueError(f"Expected {path} to be in float32 but its {value.name} is {found}.")
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # RuntimeError and others, of an operator that has no other form
        raise ValueError(
            f"Cannot bring {path} to opset {OPSET}: {error}. Export it with that opset."
        ) from error


def _part(text: str, ir: int, side: int) -> ModelProto:
    """Return the letterbox onto ``side`` × ``side`` pixels or its reverse as a model of its own."""
    from onnx import parser

    return parser.parse_model(text.format(ir=ir, opset=OPSET, side=side, grey=GREY))


def _shape(value: ValueInfoProto) -> list[int]:
    """Return the sides of a tensor, 0 where one is free."""
    return [side.dim_value for side in value.type.tensor_type.shape.dim]
