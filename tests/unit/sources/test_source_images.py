"""Images: order, colours, and what is passed over."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinfer.errors import SourceError
from edgeinfer.frame import Frame
from edgeinfer.sources import SourceOptions, images, open_source
from edgeinfer.sources.picture import PIXELS_MAX, BadPicture, decode, size_of

MEDIA = Path(__file__).parents[3] / "../shared/testdata/media"


def frames_of(word: str | Path) -> tuple[list[Frame], dict[str, str]]:
    source = open_source(str(word))
    try:
        frames = list(iter(source.read, None))
        return frames, dict(source.skipped)
    finally:
        source.close()


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def with_exif_orientation(data: bytes, orientation: int) -> bytes:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def png_that_claims(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def test_a_folder_gives_its_images_in_natural_order_with_their_names(tmp_path: Path, picture: np.ndarray) -> None:
    for name in ("img10.png", "img2.png", "img1.PNG"):
        (tmp_path / name).write_bytes(png(picture))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._img1.png").write_bytes(b"left by another system")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "deeper.png").write_bytes(png(picture))
    frames, skipped = frames_of(tmp_path)
    assert [Path(frame.uri).name for frame in frames] == ["img1.PNG", "img2.png", "img10.png"]
    assert [frame.seq for frame in frames] == [0, 1, 2]
    assert all(frame.position_s is None for frame in frames)
    assert not skipped


def test_a_glob_may_reach_into_sub_folders(tmp_path: Path, picture: np.ndarray) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.png").write_bytes(png(picture))
    (tmp_path / "a" / "y.png").write_bytes(png(picture))
    (tmp_path / "a" / "y.txt").write_text("no image")
    assert len(frames_of(tmp_path / "a" / "*")[0]) == 1
    assert len(frames_of(tmp_path / "**" / "*.png")[0]) == 2


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm"])
def test_pixels_are_blue_green_red(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    flags = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == "webp" else []
    assert cv2.imwrite(str(path), picture, flags)
    (frame,), _ = frames_of(path)
    assert np.array_equal(frame.pixels, picture)
    assert frame.pixels.dtype == np.uint8
    assert frame.pixels.flags["C_CONTIGUOUS"]


def test_gray_transparent_and_16_bit_images_become_blue_green_red(tmp_path: Path, picture: np.ndarray) -> None:
    gray = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    (tmp_path / "1.png").write_bytes(png(gray))
    alpha = np.dstack([picture, np.full((48, 64), 7, np.uint8)])
    (tmp_path / "2.png").write_bytes(png(alpha))
    (tmp_path / "3.png").write_bytes(png(picture.astype(np.uint16) * 257))
    frames, _ = frames_of(tmp_path)
    assert np.array_equal(frames[0].pixels, np.dstack([gray] * 3))
    assert np.array_equal(frames[1].pixels, picture)
    assert np.array_equal(frames[2].pixels, picture)


def test_exif_turns_the_picture(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "turned.jpg"
    path.write_bytes(with_exif_orientation(jpeg(picture), 6))  # To be turned clockwise by a quarter.
    (frame,), _ = frames_of(path)
    expected = cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE)
    assert frame.pixels.shape == expected.shape
    assert np.abs(frame.pixels.astype(int) - expected).mean() < 5


def test_what_cannot_be_read_is_skipped_named_and_logged_once(
    tmp_path: Path, picture: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1.png").write_bytes(png(picture))
    (tmp_path / "2.png").touch()
    (tmp_path / "3.jpg").write_bytes(jpeg(picture)[:-40])
    (tmp_path / "4.jpg").write_text("text")
    (tmp_path / "5.png").write_bytes(png_that_claims(20_000, 20_000))
    (tmp_path / "6.png").write_bytes(png(picture)[:60])
    (tmp_path / "7.png").write_bytes(png(picture))
    with caplog.at_level(logging.WARNING):
        frames, skipped = frames_of(tmp_path)
    assert [Path(frame.uri).name for frame in frames] == ["1.png", "7.png"]
    assert [frame.seq for frame in frames] == [0, 1]
    reasons = {Path(name).name: reason for name, reason in skipped.items()}
    assert reasons == {
        "2.png": "empty",
        "3.jpg": "a JPEG that was cut off",
        "4.jpg": "not an image that is known here",
        "5.png": "20000x20000 pixels are more than 100 million",
        "6.png": "does not decode",
    }
    assert len(caplog.records) == len(reasons)


def test_a_damaged_image_given_alone_is_an_error(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg(picture)[:-40])
    with pytest.raises(SourceError, match="cannot be read as an image: a JPEG that was cut off"):
        frames_of(path)


def test_a_folder_where_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    (tmp_path / "2.png").touch()
    with pytest.raises(SourceError, match="none of the 2 images"):
        frames_of(tmp_path)


def test_a_file_too_large_is_refused_unread(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "FILE_BYTES_MAX", 50)
    path = tmp_path / "x.png"
    path.write_bytes(png(picture))
    with pytest.raises(BadPicture, match="larger than"):
        images.load(path)


def test_an_image_removed_after_the_start_is_skipped(tmp_path: Path, picture: np.ndarray) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(png(picture))
    source = open_source(str(tmp_path))
    (tmp_path / "1.png").unlink()
    frame = source.read()
    assert frame is not None
    assert frame.uri.endswith("2.png")
    assert list(source.skipped.values()) == ["No such file or directory"]


def test_options_without_effect_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    (tmp_path / "1.png").write_bytes(png(picture))
    with pytest.raises(SourceError, match="width cannot be chosen for images"):
        open_source(str(tmp_path), SourceOptions(width=640))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp", "pgm", "ppm"])
def test_the_size_is_known_before_decoding(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    shape = (37, 61) if suffix == "pgm" else (37, 61, 3)
    assert cv2.imwrite(str(path), np.full(shape, 9, np.uint8))
    assert size_of(path.read_bytes()) == (61, 37)
    for cut in range(24):
        size_of(path.read_bytes()[:cut])


def test_the_size_of_a_lossless_webp_is_known(picture: np.ndarray) -> None:
    data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    assert data[12:16] == b"VP8L"
    assert size_of(data) == (64, 48)


def test_a_jpeg_with_a_second_picture_or_padding_behind_it_is_whole(picture: np.ndarray) -> None:
    data = jpeg(picture)
    assert decode(data + data).shape == picture.shape
    assert decode(data + bytes(1000)).shape == picture.shape


def test_no_more_than_a_hundred_million_pixels() -> None:
    with pytest.raises(BadPicture, match="million"):
        decode(png_that_claims(PIXELS_MAX + 1, 1))


def test_the_images_of_the_test_data_all_decode() -> None:
    folder = MEDIA / "image"
    if not folder.is_dir():
        pytest.skip("no test data beside the checkout")
    frames, skipped = frames_of(folder)
    assert len(frames) == 19
    assert not skipped
    for frame in frames:
        height, width = frame.pixels.shape[:2]
        assert sorted(size_of(Path(frame.uri).read_bytes()) or ()) == sorted((width, height))
