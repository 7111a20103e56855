"""A trained detector as files: ONNX float32, TFLite float32, TFLite int8."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from pathlib import Path

import litert_torch
import numpy as np
import numpy.typing as npt
import onnx
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import quantizer, recipe
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .model import HEIGHT, LABELS, WIDTH, Detector

log = logging.getLogger(__name__)


def without_batch_norm(model: Detector) -> Detector:
    """The same function with every batch norm folded into its convolution."""
    folded = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
    for block in folded.modules():
        if isinstance(block, nn.Sequential) and len(block) > 1 and isinstance(block[1], nn.BatchNorm2d):
            block[0] = fuse_conv_bn_eval(block[0], block[1])
            block[1] = nn.Identity()
    return folded


def write_onnx(model: Detector, path: Path) -> None:
    """Input `images` [1, 3, H, W], output `detections` [1, 4 + classes, cells]."""
    sample = (torch.zeros(1, 3, HEIGHT, WIDTH),)
    torch.onnx.export(
        without_batch_norm(model),
        sample,
        str(path),
        input_names=["images"],
        output_names=["detections"],
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    proto = onnx.load(str(path))
    for node in proto.graph.node:
        # Where each operator came from in our source: of no use on a device.
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]
    names = dict(enumerate(LABELS))
    onnx.helper.set_model_props(proto, {"names": str(names), "task": "detect", "licence": "Apache-2.0"})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))


def write_float_tflite(model: Detector, path: Path) -> None:
    """Input channel-last, as the kernels want it."""
    last = litert_torch.to_channel_last_io(without_batch_norm(model), args=[0])
    litert_torch.convert(last.eval(), (torch.zeros(1, HEIGHT, WIDTH, 3),)).export(str(path))


def write_int8_tflite(float_path: Path, path: Path, images: npt.NDArray[np.float32]) -> None:
    """Fully int8, calibrated on `images` [N, H, W, 3] of 0..1."""
    machine = quantizer.Quantizer(str(float_path))
    machine.load_quantization_recipe(recipe.static_wi8_ai8())
    name = _only_input(float_path)
    ranges = machine.calibrate({"serving_default": [{name: image[None]} for image in _spanning(images)]}, num_threads=2)
    result = machine.quantize(ranges)
    path.write_bytes(bytes(result.quantized_model))


def _spanning(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The images, each with one black and one white pixel in a corner.

    The quantiser averages ranges over the samples; only so does the input come out as scale 1/255, zero -128, and
    a camera's uint8 becomes the model's int8 by subtracting 128.
    """
    spanning = images.copy()
    spanning[:, 0, 0], spanning[:, 0, 1] = 0.0, 1.0
    return spanning


def _only_input(path: Path) -> str:
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(str(path)).get_signature_list()["serving_default"]
    (name,) = signature["inputs"]
    return str(name)


def list_ops(path: Path) -> dict[str, int]:
    """Operators of a TFLite file with the types of their first input and output, and how often each occurs."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    graph = model.subgraphs[0]
    ops: Counter[str] = Counter()
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex]
        kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        into, out = types[graph.tensors[op.inputs[0]].type], types[graph.tensors[op.outputs[0]].type]
        ops[f"{kind} {into}->{out}"] += 1
    return dict(ops.most_common())
