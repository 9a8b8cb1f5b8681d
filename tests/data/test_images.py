"""Decoding: every kind of image file comes out as the pixels it means, or says why not."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lrexp.data.images import ImageError, extensions, read_image
from lrexp.data.source import EncodedImages, Source

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5  # (H, W), no symmetry
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], 2)  # (H, W, 3)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colour_png(depth: int, values: np.ndarray) -> bytes:
    """A PNG of (H, W, 3) values written by the letter of its specification."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def read(encoded: bytes | str, channels: int = 3, size: int | None = None) -> np.ndarray:
    return read_image(encoded, channels, size)[0]


def words(encoded: bytes | str, channels: int = 3) -> set[str]:
    return set(read_image(encoded, channels, None)[1])


def test_plain_images_come_out_as_they_went_in_and_nothing_is_said() -> None:
    assert read(saved(Image.fromarray(COLOUR))).tolist() == COLOUR.transpose(2, 0, 1).tolist()
    assert words(saved(Image.fromarray(COLOUR))) == set()
    grey = saved(Image.fromarray(RAMP))
    assert read(grey, channels=1).tolist() == [RAMP.tolist()]
    assert words(grey, channels=1) == set()


def test_a_file_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(saved(Image.fromarray(COLOUR)))
    assert read(str(file)).tolist() == read(file.read_bytes()).tolist()


def test_grey_becomes_three_equal_channels_and_colour_the_luma_of_bt_601() -> None:
    pixels = read(saved(Image.fromarray(RAMP)))
    assert (pixels == RAMP).all()
    assert words(saved(Image.fromarray(RAMP))) == {"grey to RGB"}
    colour = saved(Image.fromarray(COLOUR))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert abs(read(colour, channels=1)[0] - luma).max() <= 1
    assert words(colour, channels=1) == {"colour to grey"}


def test_sixteen_bit_grey_is_divided_by_257_and_not_clipped() -> None:
    deep = np.linspace(0, 65535, 48).round().astype(np.uint16).reshape(6, 8)
    for kind in ("PNG", "TIFF"):
        encoded = saved(Image.fromarray(deep), kind)
        assert read(encoded, channels=1)[0].tolist() == np.round(deep / 257).astype(int).tolist()
        assert words(encoded, channels=1) == {"16-bit"}
        assert words(encoded) == {"16-bit", "grey to RGB"}


def test_sixteen_bit_colour_keeps_its_high_bytes_and_is_counted() -> None:
    deep = COLOUR.astype(np.uint16) * 257
    encoded = colour_png(16, deep)
    assert read(encoded).tolist() == COLOUR.transpose(2, 0, 1).tolist()
    assert words(encoded) == {"16-bit"}
    assert words(colour_png(8, COLOUR)) == set()


def test_integers_of_32_bits_are_taken_as_16_and_refused_beyond() -> None:
    values = np.array([[0, 257, 65535]], np.int32)
    assert read(saved(Image.fromarray(values), "TIFF"), channels=1)[0].tolist() == [[0, 1, 255]]
    for odd in (-1, 65536):
        with pytest.raises(ImageError, match="integers from 0 to 65535"):
            read(saved(Image.fromarray(np.array([[0, odd]], np.int32)), "TIFF"))


def test_floats_in_0_1_become_bytes_and_nan_infinity_and_others_are_refused() -> None:
    def tiff(*values: float) -> bytes:
        return saved(Image.fromarray(np.array([values], np.float32)), "TIFF")

    assert read(tiff(0, 0.5, 1), channels=1)[0].tolist() == [[0, 128, 255]]
    assert words(tiff(0, 1), channels=1) == {"float"}
    for odd in (np.nan, np.inf, -np.inf):
        with pytest.raises(ImageError, match="1 pixels that are NaN or infinite"):
            read(tiff(0, odd))
    with pytest.raises(ImageError, match=r"from 0 to 200, which are no float values in \[0, 1\]"):
        read(tiff(0, 200))


def test_a_palette_is_looked_up() -> None:
    indexed = Image.fromarray(RAMP // 64).convert("P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    encoded = saved(indexed)
    wanted = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]])[RAMP // 64]
    assert read(encoded).tolist() == wanted.transpose(2, 0, 1).tolist()
    assert words(encoded) == {"palette"}


def test_one_bit_images_are_black_and_white() -> None:
    encoded = saved(Image.fromarray(RAMP > 99))
    assert (read(encoded) == 255 * (RAMP > 99)).all()
    assert words(encoded) == {"1-bit", "grey to RGB"}


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P"])
def test_transparent_pixels_are_laid_on_white(mode: str) -> None:
    layers = Image.new("RGBA", (2, 1), (10, 10, 10, 255))
    layers.putpixel((1, 0), (10, 10, 10, 0))
    if mode.startswith("P"):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 10, 10, 50, 50, 50])
        image.putpixel((1, 0), 1)
        if mode == "PA":
            image.putalpha(layers.getchannel("A"))
        encoded = saved(image, "TIFF") if mode == "PA" else saved(image, transparency=1)
    else:
        encoded = saved(layers.convert(mode))
    assert read(encoded).tolist() == [[[10, 255]]] * 3
    expected = {"alpha"} | {"LA": {"grey to RGB"}}.get(mode, set())
    assert words(encoded) == expected | ({"palette"} if mode.startswith("P") else set())


def test_an_opaque_alpha_channel_changes_and_says_nothing() -> None:
    encoded = saved(Image.fromarray(COLOUR).convert("RGBA"))
    assert read(encoded).tolist() == COLOUR.transpose(2, 0, 1).tolist()
    assert words(encoded) == set()


def test_half_transparent_black_on_white_is_grey() -> None:
    assert read(saved(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))).reshape(-1).tolist() == [127] * 3


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_print_and_video_colours_become_rgb(mode: str) -> None:
    flat = Image.new("RGB", (16, 16), (200, 100, 50)).convert(mode)
    encoded = saved(flat, "JPEG" if mode == "CMYK" else "TIFF")
    pixels = read(encoded)
    assert abs(pixels.reshape(3, -1).mean(1) - [200, 100, 50]).max() < 4
    assert words(encoded) == {mode}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_taken_and_counted(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    encoded = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert read(encoded)[:, 0, 0].tolist() == [255, 0, 0]
    assert "animated" in words(encoded)
    assert "animated" not in words(saved(frames[0], kind))


def test_of_several_pages_the_first_is_taken_and_counted() -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    encoded = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert read(encoded)[:, 0, 0].tolist() == [255, 0, 0]
    assert words(encoded) == {"several pages"}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_pixels_upright(orientation: int) -> None:
    # By the EXIF specification: what the stored pixels are, seen from the upright image.
    stored: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.ascontiguousarray(stored[orientation](RAMP))
    encoded = saved(Image.fromarray(pixels), exif=exif)
    assert read(encoded, channels=1)[0].tolist() == RAMP.tolist()
    assert words(encoded, channels=1) == (set() if orientation == 1 else {"rotated by EXIF"})


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # which Pillow says; lrexp does not
def test_damaged_exif_beside_whole_pixels_is_ignored() -> None:
    encoded = saved(
        Image.fromarray(RAMP), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\1"
    )
    assert read(encoded, channels=1).shape == (1, 6, 8)


def test_a_size_cuts_out_the_middle_square() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (read(saved(Image.fromarray(wide)), size=10) == 200).all()
    assert read(saved(Image.fromarray(wide)), size=5).shape == (3, 5, 5)


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", r"is empty \(0 bytes\)"),
    "text": (lambda: b"<html>404</html>", "is no image that can be read"),
    "truncated PNG": (lambda: noise_png()[:-400], "cannot be decoded"),
    "truncated JPEG": (lambda: noise_jpeg()[:-600], "cannot be decoded .*truncated"),
    "truncated GIF": (lambda: saved(noise(), "GIF")[:-600], "cannot be decoded"),
    "only a header": (lambda: noise_jpeg()[:20], "no image that can be read|cannot be decoded"),
    "damaged PNG": (lambda: re.sub(b"IDAT..", b"IDAT\0\0", noise_png()), "cannot be decoded"),
    "PostScript": (lambda: saved(noise(), "EPS"), "is no image that can be read"),
}


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8))


def noise_png() -> bytes:
    return saved(noise())


def noise_jpeg() -> bytes:
    return saved(noise(), "JPEG")


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("as_file", [False, True])
def test_what_cannot_be_read_says_why(name: str, as_file: bool, tmp_path: Path) -> None:
    make, why = BROKEN[name]
    file = tmp_path / "x.jpg"
    file.write_bytes(make())
    with pytest.raises(ImageError, match=why):
        read(str(file) if as_file else make())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"there is no file {tmp_path}/none.png"):
        read(str(tmp_path / "none.png"))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be decoded"):
        read(str(tmp_path))


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = saved(Image.new("L", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the limit is twice that
    with pytest.raises(ImageError, match="decompression bomb"):
        read(encoded)


def test_a_pipe_or_a_device_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for path in (Path(os.devnull), tmp_path / "a.png"):  # a pipe would be waited for
        with pytest.raises(ImageError, match="is a pipe or a device"):
            read_image(str(path), 3, None)


def test_threads_decode_as_one_does() -> None:
    encoded = [
        noise_png(),
        noise_jpeg(),
        saved(noise(), "GIF"),
        saved(noise().convert("CMYK"), "TIFF"),
    ]
    alone = [read_image(e, 3, 16) for e in encoded]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: read_image(encoded[i % 4], 3, 16), range(400)))
    for i, (pixels, said) in enumerate(together):
        assert said == alone[i % 4][1]
        assert (pixels == alone[i % 4][0]).all()


def test_encoded_images_take_a_size_afterwards() -> None:
    images = EncodedImages(lambda i: noise_png(), str, 3, None)
    source = Source(images, np.array([0, 1]), ("a", "b")).of_size(8)
    assert source.read(0)[0].shape == (3, 8, 8)
    assert (source.read(0)[0] == read(noise_png(), size=8)).all()


def test_endings_of_image_files() -> None:
    assert {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".ppm"} <= extensions()
    assert not {".eps", ".pdf", ".txt", ".csv", ".mpg", ""} & extensions()
