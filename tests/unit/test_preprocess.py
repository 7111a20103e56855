"""Fitting pictures, against a slow reference that works pixel by pixel."""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.bundle import ImageInput
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import WHOLE, Fitter, Placement
from edgeinfer.tensor import Quantization, TensorSpec, dequantize, quantize

PAD = 114
# dtype, quantisation of an input whose real values are 0..1.
STORED = {
    "uint8": (np.uint8, Quantization((1 / 255,), (0,))),
    "uint8 odd": (np.uint8, Quantization((1 / 200,), (20,))),
    "int8": (np.int8, Quantization((1 / 255,), (-128,))),
    "int8 odd": (np.int8, Quantization((1 / 180,), (-60,))),
    "int16": (np.int16, Quantization((1 / 32767,), (0,))),
    "uint16": (np.uint16, Quantization((1 / 65535,), (0,))),
    "int32": (np.int32, Quantization((1e-6,), (0,))),
    "int64": (np.int64, Quantization((1e-6,), (-7,))),
    "float16": (np.float16, None),
    "float32": (np.float32, None),
    "float64": (np.float64, None),
    "bool": (np.bool_, None),
}


def image_input(**facts):
    usual = {
        "index": 0,
        "width": 12,
        "height": 8,
        "channels": 1 if facts.get("colour") == "gray" else 3,
        "layout": "nhwc",
        "colour": "rgb",
        "mean": (0.0,),
        "std": (255.0,),
        "raw_bytes": False,
        "fit": "stretch",
        "pad": PAD,
    }
    return ImageInput(**{**usual, **facts})


def tensor_for(image, dtype):
    shape = (image.height, image.width, image.channels)
    shape = (shape[2], *shape[:2]) if image.layout == "nchw" else shape
    # Neither zeros nor the pad: what is not written shows.
    return np.full((1, *shape), 77).astype(dtype)


def fit(pixels, image, dtype, quantization=None):
    tensor = tensor_for(image, dtype)
    where = Fitter(TensorSpec("image", tensor.shape, np.dtype(dtype), quantization), image).fit(pixels, tensor)
    picture = tensor[0].transpose(1, 2, 0) if image.layout == "nchw" else tensor[0]
    return picture, where


def colours(pixels, colour):
    """(height, width, 3) blue-green-red -> the channels that the model wants, one pixel at a time."""
    if colour == "bgr":
        return pixels
    if colour == "rgb":
        return pixels[:, :, ::-1]
    blue, green, red = (pixels[:, :, index].astype(float) for index in range(3))
    return np.rint(0.114 * blue + 0.587 * green + 0.299 * red)[:, :, None]


def picture_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("colour", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("normal", [((0.0,), (255.0,)), ((10.0, 20.0, 30.0), (200.0, 220.0, 240.0))])
def test_every_dtype_layout_and_colour(stored, layout, colour, normal):
    dtype, quantization = STORED[stored]
    mean, std = normal if colour != "gray" else (normal[0][:1], normal[1][:1])
    image = image_input(layout=layout, colour=colour, mean=mean, std=std)
    pixels = picture_of(image.height, image.width)
    found, where = fit(pixels, image, dtype, quantization)
    assert found.dtype == dtype
    assert where == WHOLE
    # The grey of OpenCV is rounded its own way: a step of one at most.
    slack = 1.01 / min(std) if colour == "gray" else 0.0
    real = (colours(pixels, colour) - np.array(mean)) / np.array(std)
    if dtype == np.bool_:
        doubtful = np.abs(real - 0.5) <= slack
        assert ((found == (real >= 0.5)) | doubtful).all()
        return
    if quantization is not None:
        ends = np.iinfo(dtype)
        low, high = (quantization.scale[0] * (end - quantization.zero_point[0]) for end in (ends.min, ends.max))
        real = np.clip(real, low, high)
    step = quantization.scale[0] / 2 * 1.001 if quantization else {2: 5e-4, 4: 1e-6, 8: 1e-9}[found.itemsize]
    assert np.abs(dequantize(found, quantization) - real).max() <= step + slack + 1e-7


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_raw_bytes_are_the_pixels_whatever_the_quantisation(dtype, layout, colour):
    image = image_input(layout=layout, colour=colour, raw_bytes=True, mean=(1.0,), std=(9.0,))
    pixels = picture_of(image.height, image.width)
    found, _ = fit(pixels, image, dtype, Quantization((0.3,), (3,)))
    assert (found.astype(int) + (128 if dtype == np.int8 else 0) == colours(pixels, colour)).all()


def bilinear(pixels, height, width):
    """Half-pixel centres, edges repeated: the definition, in float."""
    rows = (np.arange(height) + 0.5) * pixels.shape[0] / height - 0.5
    columns = (np.arange(width) + 0.5) * pixels.shape[1] / width - 0.5
    out = np.empty((height, width, pixels.shape[2]))
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            top, left = int(np.floor(row)), int(np.floor(column))
            down, right = row - top, column - left
            corner = [
                pixels[min(max(top + dy, 0), pixels.shape[0] - 1), min(max(left + dx, 0), pixels.shape[1] - 1)]
                for dy in (0, 1)
                for dx in (0, 1)
            ]
            weights = ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right)
            out[y, x] = sum(weight * each.astype(float) for weight, each in zip(weights, corner, strict=True))
    return out


SIZE = st.integers(1, 23)


@settings(max_examples=80)
@given(
    source=st.tuples(SIZE, SIZE),
    target=st.tuples(SIZE, SIZE),
    kind=st.sampled_from(["letterbox", "stretch"]),
    layout=st.sampled_from(["nhwc", "nchw"]),
    colour=st.sampled_from(["rgb", "bgr", "gray"]),
    stored=st.sampled_from(["uint8", "int8", "float32", "float16"]),
)
def test_any_size_into_any_other(source, target, kind, layout, colour, stored):
    dtype, quantization = STORED[stored]
    image = image_input(fit=kind, layout=layout, colour=colour, height=target[0], width=target[1])
    pixels = picture_of(*source)
    found, where = fit(pixels, image, dtype, quantization)
    left, top = round(where.x * image.width), round(where.y * image.height)
    width, height = round(where.width * image.width), round(where.height * image.height)
    assert where == Placement(left / image.width, top / image.height, width / image.width, height / image.height), (
        "lies on whole pixels"
    )
    if kind == "stretch":
        assert where == WHOLE
    else:
        scale = min(image.width / pixels.shape[1], image.height / pixels.shape[0])
        assert abs(width - max(1, pixels.shape[1] * scale)) <= 0.5
        assert abs(height - max(1, pixels.shape[0] * scale)) <= 0.5
        # Centred, to a pixel.
        assert abs(image.width - width - 2 * left) <= 1
        assert abs(image.height - height - 2 * top) <= 1
    levels = dequantize(found, quantization) * 255
    inner = np.zeros(found.shape[:2], dtype=bool)
    inner[top : top + height, left : left + width] = True
    assert np.abs(levels[~inner] - PAD).max(initial=0) < 0.6
    expected = colours(bilinear(pixels, height, width), colour)
    actual = levels[top : top + height, left : left + width]
    assert np.abs(actual - expected).max() <= 2.1


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("colour", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("kind", ["letterbox", "stretch"])
def test_writes_into_the_given_memory_each_time_anew(stored, layout, colour, kind):
    dtype, quantization = STORED[stored]
    image = image_input(layout=layout, colour=colour, fit=kind)
    tensor = tensor_for(image, dtype)
    fitter = Fitter(TensorSpec("image", tensor.shape, np.dtype(dtype), quantization), image)
    fitter.fit(picture_of(30, 20), tensor)
    first = tensor.copy()
    # An interpreter uses the memory of its input for other things while it computes.
    tensor[:] = 1
    fitter.fit(picture_of(9, 50, seed=1), tensor)
    other = tensor.copy()
    tensor[:] = 0
    fitter.fit(picture_of(30, 20), tensor)
    assert (tensor == first).all()
    assert (other != first).any()


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("colour", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("kind", ["letterbox", "stretch", "crop"])
def test_laid_out_ahead_and_placed_later_is_the_same(stored, layout, colour, kind):
    dtype, quantization = STORED[stored]
    image = image_input(layout=layout, colour=colour, fit=kind)
    pictures = [picture_of(30, 20), picture_of(30, 70, seed=1), picture_of(8, 12, seed=2), picture_of(9, 12, seed=3)]
    tensor = tensor_for(image, dtype)
    fitter = Fitter(TensorSpec("image", tensor.shape, np.dtype(dtype), quantization), image)
    for turn in range(3):  # Then in memory that was used for a picture of another size.
        turned = pictures[turn:] + pictures[:turn]
        ahead = [fitter.lay_out(picture) for picture in turned]
        for picture, laid_out in zip(turned, ahead, strict=True):
            expected = tensor_for(image, dtype)
            where = Fitter(TensorSpec("image", tensor.shape, np.dtype(dtype), quantization), image).fit(
                picture, expected
            )
            tensor[:] = 1
            assert fitter.place(laid_out, tensor) == where
            assert (tensor == expected).all()


def test_the_frame_is_left_as_it_was_and_may_be_read_only_or_cut_out():
    whole = picture_of(40, 50)
    whole.flags.writeable = False
    for image in (image_input(), image_input(height=30, width=20), image_input(colour="bgr", layout="nchw")):
        cut = whole[5:35, 10:30]
        found, _ = fit(cut, image, np.uint8, Quantization((1 / 255,), (0,)))
        again, _ = fit(cut.copy(), image, np.uint8, Quantization((1 / 255,), (0,)))
        assert (found == again).all()
    assert (whole == picture_of(40, 50)).all()


def test_no_image_sized_memory_is_taken_per_frame():
    pixels = picture_of(120, 160)
    for stored in ("uint8", "int8", "int8 odd", "float32", "float16"):
        dtype, quantization = STORED[stored]
        for layout in ("nhwc", "nchw"):
            image = image_input(width=96, height=96, layout=layout, fit="letterbox")
            tensor = tensor_for(image, dtype)
            fitter = Fitter(TensorSpec("image", tensor.shape, np.dtype(dtype), quantization), image)
            fitter.fit(pixels, tensor)
            fitter.place(fitter.lay_out(pixels), tensor)
            tracemalloc.start()
            try:
                fitter.fit(pixels, tensor)
                fitter.place(fitter.lay_out(pixels), tensor)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < 96 * 96, (stored, layout)


@settings(max_examples=60)
@given(
    source=st.tuples(st.integers(20, 300), st.integers(20, 300)),
    corner=st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)),
    extent=st.tuples(st.floats(0.2, 0.4), st.floats(0.2, 0.4)),
    kind=st.sampled_from(["letterbox", "stretch"]),
)
def test_a_drawn_box_found_in_the_tensor_is_that_of_the_source(source, corner, extent, kind):
    height, width = source
    x_min, y_min = round(corner[0] * width), round(corner[1] * height)
    x_max, y_max = round(x_min + extent[0] * width), round(y_min + extent[1] * height)
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    cv2.rectangle(pixels, (x_min, y_min), (x_max - 1, y_max - 1), (255, 255, 255), cv2.FILLED)
    image = image_input(width=160, height=96, fit=kind, pad=0)
    found, where = fit(pixels, image, np.uint8, Quantization((1 / 255,), (0,)))
    ys, xs = np.nonzero(found[:, :, 0] > 127)
    seen = np.array([[xs.min() / 160, ys.min() / 96, (xs.max() + 1) / 160, (ys.max() + 1) / 96]], dtype=np.float32)
    back = where.to_source(seen.T)[:, 0] * [width, height, width, height]
    # Half a pixel of the input at each side, and one of the source.
    slack = 1.0 + np.array([width / (where.width * 160), height / (where.height * 96)] * 2)
    assert (np.abs(back - [x_min, y_min, x_max, y_max]) <= slack).all()


def test_boxes_are_clipped_to_the_source():
    where = Placement(0.25, 0.0, 0.5, 1.0)
    boxes = np.array([[0.0, 0.1, 1.0, 0.9], [0.5, -0.5, 0.75, 1.5]], dtype=np.float32)
    np.testing.assert_allclose(where.to_source(boxes.T).T, [[0, 0.1, 1, 0.9], [0.5, 0, 1, 1]], rtol=1e-6)
    one_by_one = np.array([where.box_to_source(*box) for box in boxes.tolist()])
    assert one_by_one == pytest.approx(where.to_source(boxes.T).T)
    assert boxes[0, 0] == 0.0, "the given boxes stay as they are"
    assert where.to_source(np.zeros((4, 0), dtype=np.float32)).shape == (4, 0)


@pytest.mark.parametrize(
    "facts", [{"channels": 4}, {"channels": 1, "colour": "rgb"}, {"channels": 3, "colour": "gray"}]
)
def test_channels_that_no_picture_has_are_refused(facts):
    with pytest.raises(ModelError, match=f"{facts['channels']} channels"):
        Fitter(TensorSpec("image", (1, 8, 12, facts["channels"]), np.dtype(np.uint8)), image_input(**facts))


@settings(max_examples=200)
@given(
    dtype=st.sampled_from([np.uint8, np.int8]),
    mean=st.sampled_from([0.0, 127.5, 128.0, 123.675]) | st.floats(0, 255),
    std=st.sampled_from([1.0, 127.5, 255.0, 58.395]) | st.floats(0.5, 300),
    steps=st.sampled_from([128.0, 255.0, 64.0]) | st.floats(0.5, 400),
    zero_point=st.integers(0, 255),
    width=st.integers(1, 70),
)
def test_every_byte_is_stored_as_quantize_stores_it(dtype, mean, std, steps, zero_point, width):
    """Whether by a table or by a multiplication, to the last bit, at every place of a row."""
    quantization = Quantization((1 / steps,), (zero_point - (128 if dtype == np.int8 else 0),))
    image = image_input(colour="bgr", mean=(mean,), std=(std,), width=width, height=256)
    pixels = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, width, 3))
    stored, _ = fit(pixels, image, dtype, quantization)
    spec = TensorSpec("image", stored.shape, np.dtype(dtype), quantization)
    expected = quantize((np.arange(256, dtype=np.float64) - mean) / std, spec)
    assert (stored == expected[:, None, None]).all()
