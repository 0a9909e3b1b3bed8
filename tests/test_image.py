"""Pictures as input: what comes out for pictures whose pixels are known, and that bad ones are refused in one line."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from nbconv.image import MAX_PIXELS, load_image

PIXELS = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3) * 10


def encoded(picture: Image.Image, format: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, format, **options)
    file.seek(0)
    return file


def test_pixels_normalised():
    x = load_image(encoded(Image.fromarray(PIXELS)), mean=(1, 2, 3), std=(2, 4, 8))
    want = ((PIXELS.astype(np.float64) - [1, 2, 3]) / [2, 4, 8]).transpose(2, 0, 1)[None]
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    np.testing.assert_allclose(x, want, rtol=1e-6)


def test_default_is_zero_to_one():
    x = load_image(Image.new("RGB", (3, 2), (255, 0, 51)))
    assert x.shape == (1, 3, 2, 3)
    np.testing.assert_allclose(x[0, :, 0, 0], [1, 0, 0.2], rtol=1e-6)


def test_nhwc_and_bgr():
    x = load_image(Image.fromarray(PIXELS), mean=0, std=1, layout="NHWC", bgr=True)
    np.testing.assert_array_equal(x[0], PIXELS[:, :, ::-1])


def test_grey():
    x = load_image(Image.new("RGB", (4, 2), (100, 100, 100)), mean=0, std=1, channels=1)
    assert x.shape == (1, 1, 2, 4)
    assert (x == 100).all()


def test_sixteen_bits():
    x = load_image(Image.fromarray(np.full((2, 2), 257 * 200, np.uint16)), mean=0, std=1)
    assert (x == 200).all()


def test_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    x = load_image(encoded(Image.fromarray(PIXELS), exif=exif), mean=0, std=1, layout="NHWC")
    np.testing.assert_array_equal(x[0], np.rot90(PIXELS, -1))


def test_transparent_is_white():
    x = load_image(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), mean=0, std=1)
    assert (x == 255).all()


def halves() -> Image.Image:
    """8 wide, 4 high: black, but for the middle 4x4, which is white."""
    a = np.zeros((4, 8, 3), np.uint8)
    a[:, 2:6] = 255
    return Image.fromarray(a)


def test_crop_takes_the_middle():
    assert (load_image(halves(), (4, 4), 0, 255, resize="crop") == 1).all()


def test_stretch_takes_all():
    x = load_image(halves(), (4, 4), 0, 255, resize="stretch", filter="box")
    np.testing.assert_array_equal(x[0, 0, 0], [0, 1, 1, 0])


def test_pad_fills_with_the_mean():
    x = load_image(halves(), (8, 8), mean=(10, 20, 30), std=1, resize="pad")
    assert (x[:, :, :2] == 0).all()
    assert (x[:, :, 6:] == 0).all()
    assert x[0, 0, 4, 4] == 245


def test_pad_of_blue_first():
    x = load_image(halves(), (8, 8), mean=(10, 20, 30), std=1, resize="pad", bgr=True)
    assert (x[:, :, 0] == 0).all()


@pytest.mark.parametrize("keep", [0, 20, 60, -200])
def test_damaged(tmp_path, keep):
    path = tmp_path / "broken.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    path.write_bytes(encoded(Image.fromarray(noise)).read()[:keep])
    with pytest.raises(ValueError, match=r"broken\.png: not a picture") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "none.png")


@pytest.mark.parametrize("side", [9500, 60000])
def test_bomb(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )
    with pytest.raises(ValueError, match=str(MAX_PIXELS)):
        load_image(io.BytesIO(data))


@pytest.mark.parametrize(
    "wrong",
    [
        {"std": 0},
        {"mean": (1, 2)},
        {"mean": float("nan")},
        {"size": (0, 4)},
        {"resize": "zoom"},
        {"filter": "x"},
        {"channels": 4},
        {"layout": "CHW"},
    ],
)
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        load_image(halves(), **wrong)


def test_reading_leaves_warnings_to_their_owners() -> None:
    """Those of the caller's own, even in the midst of it: filters are all threads'."""

    class Noisy(io.BytesIO):
        def read(self, *size: int) -> bytes:
            warnings.warn("mine", stacklevel=1)
            return super().read(*size)

    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG")
    with pytest.warns(UserWarning, match="mine"):
        load_image(Noisy(file.getvalue()))
