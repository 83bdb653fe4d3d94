"""Decoding of every kind of image, the backbone's preprocessing against open_clip, and augmented views."""

from __future__ import annotations

import ast
import contextlib
import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from psp_ray.clip.preprocess import Preprocessing
from psp_ray.data import decoding
from psp_ray.data.images import (
    ImageError,
    ViewSettings,
    augmented_views,
    center_view,
    check_header,
    content_hash,
    crop_box,
    decode,
    image_extensions,
    view_noise,
)
from tests.data.made import encoded, picture


def close(image: Image.Image, reference: Image.Image, tolerance: float) -> bool:
    first, second = np.asarray(image, float), np.asarray(reference, float)
    return first.shape == second.shape and float(np.abs(first - second).mean()) <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_rgb_files_are_exact(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(picture(1), kind, **options)), picture(1))


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray(mode):
    image = picture(2, mode="L").convert(mode)
    np.testing.assert_array_equal(decode(encoded(image)), image.convert("L").convert("RGB"))


def test_sixteen_bit_gray_keeps_its_range():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        out = np.asarray(decode(encoded(Image.fromarray(ramp), kind)))
        np.testing.assert_array_equal(out[..., 0], np.arange(256).reshape(16, 16))
        np.testing.assert_array_equal(out[..., 0], out[..., 2])


def test_float_and_32_bit_gray():
    unit = Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    np.testing.assert_array_equal(
        np.asarray(decode(encoded(unit, "TIFF")))[..., 0], np.rint(np.linspace(0, 255, 64)).reshape(8, 8)
    )
    for step, full in ((1000, 65535), (64, 4095), (4, 255), (20_000, 63 * 20_000)):
        ints = Image.fromarray((np.arange(64, dtype=np.int32) * step).reshape(8, 8))
        out = np.asarray(decode(encoded(ints, "TIFF")))[..., 0].astype(float)
        np.testing.assert_allclose(out, np.arange(64).reshape(8, 8) * step * 255 / full, atol=0.5)
    with_nan = np.full((4, 4), 0.5, np.float32)
    with_nan[0, 0] = np.nan
    assert np.asarray(decode(encoded(Image.fromarray(with_nan), "TIFF")))[0, 0, 0] == 0


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_negative_values_reach_from_black_to_white(kind):
    values = np.linspace(-1024, 3071, 64).astype(kind).reshape(8, 8)
    out = np.asarray(decode(encoded(Image.fromarray(values), "TIFF")))[..., 0].astype(float)
    np.testing.assert_allclose(out, (values + 1024.0) * 255 / 4095, atol=0.6)


def test_twelve_bits_in_sixteen_are_no_night():
    ramp = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        out = np.asarray(decode(encoded(Image.fromarray(ramp), kind)))[..., 0]
        np.testing.assert_array_equal(out, np.rint(ramp * (255 / 4095)))


def test_palette_with_and_without_transparency():
    image = picture(3).quantize(16)
    np.testing.assert_array_equal(decode(encoded(image)), image.convert("RGB"))
    clear = bytes([0] * 8 + [255] * 8)  # the first eight colors are fully transparent
    out = np.asarray(decode(encoded(image, transparency=clear)))
    index = np.asarray(image)
    assert (out[index < 8] == 255).all()
    np.testing.assert_array_equal(out[index >= 8], np.asarray(image.convert("RGB"))[index >= 8])
    assert (index < 8).any()
    assert (index >= 8).any()


def test_transparency_is_laid_on_white():
    image = picture(4).convert("RGBA")
    alpha = np.zeros((14, 20), np.uint8)
    alpha[:, 10:] = 255
    image.putalpha(Image.fromarray(alpha))
    out = np.asarray(decode(encoded(image)))
    assert (out[:, :10] == 255).all()
    np.testing.assert_array_equal(out[:, 10:], np.asarray(picture(4))[:, 10:])
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert abs(int(np.asarray(decode(encoded(half)))[0, 0, 0]) - 127) <= 1


def test_color_key_transparency():
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    image.putpixel((0, 0), (1, 2, 3))
    out = np.asarray(decode(encoded(image, transparency=(1, 2, 3))))
    assert out[0, 0].tolist() == [255, 255, 255]
    assert out[1, 1].tolist() == [10, 20, 30]


def test_cmyk_jpeg_keeps_its_colors():
    for color in ((250, 20, 20), (20, 240, 30), (30, 30, 230), (255, 255, 255), (0, 0, 0)):
        flat = Image.new("RGB", (16, 16), color)
        out = decode(encoded(flat.convert("CMYK"), "JPEG", quality=95))
        assert out.mode == "RGB"
        assert close(out, flat, 4)


def test_gif_and_animated_files_give_the_first_frame():
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(data)).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation):
    upright = picture(6, size=(48, 32))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = decode(encoded(stored, "JPEG", exif=exif, quality=95))
    assert out.size == (48, 32)
    assert close(out, upright, 3)
    np.testing.assert_array_equal(decode(encoded(stored, "PNG", exif=exif)), upright)


def test_damaged_exif_costs_nothing():
    for junk in (b"Exif\x00\x00junk", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01"):
        data = encoded(picture(7), "JPEG", exif=junk)
        assert decode(data).size == (20, 14)


def test_exif_that_can_not_be_written_again_turns_the_image_all_the_same():
    """Tags whose values have no place in their type made Pillow's own transposition fail, and cost the image."""
    stored = picture(6, size=(48, 32))
    head = b"MM\x00*\x00\x00\x00\x08\x00\x02"
    turned = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    strange = b"\x87\x69\x00\x04\x00\x00\x00\x01\xff\xff\xff\xf0"
    exif = b"Exif\x00\x00" + head + turned + strange + bytes(4)
    assert decode(encoded(stored, "JPEG", exif=exif)).size == (32, 48)


def test_broken_files_have_reasons():
    jpeg = encoded(picture(8, size=(200, 200)), "JPEG")
    png = encoded(picture(8, size=(200, 200)))
    for data in (b"", b"hello", jpeg[: len(jpeg) // 2], png[: len(png) // 2], jpeg[:20], png[:40]):
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="empty file"):
        decode(b"")
    with pytest.raises(ImageError, match="truncated"):
        decode(jpeg[: len(jpeg) // 2])


def test_too_large_is_broken_not_fatal(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"too large, more than 200 pixels; shrink it"):
        decode(encoded(picture(9, size=(40, 40))))


def test_a_budget_is_kept_before_a_pixel_is_read(monkeypatch):
    """Files of a few KiB may hold gigabytes: the header says so."""
    small = encoded(Image.new("I;16", (100, 90)))
    monkeypatch.setattr(decoding, "BUDGET", 100 * 90 * 10)
    decode(small)
    for image in (picture(1, size=(130, 90)), Image.new("I;16", (112, 90)), Image.new("LA", (80, 90))):
        with pytest.raises(ImageError, match=r"too large: \d+ x 90 pixels would take .* shrink it"):
            decode(encoded(image))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["I;16", "LA"])
def test_conversions_keep_to_the_budget(mode):
    """42 million pixels, some KiB on disk."""
    script = (
        "import io, resource\nfrom PIL import Image\nfrom psp_ray.data.decoding import BUDGET, decode\n"
        f"file = io.BytesIO()\nImage.new({mode!r}, (7000, 6000)).save(file, 'png')\n"
        "image = decode(file.getvalue())\nassert image.size == (7000, 6000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / BUDGET)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.8


def test_huge_jpegs_are_decoded_smaller(monkeypatch):
    whole = picture(1, size=(640, 480))
    data = encoded(whole, "JPEG", quality=95)
    monkeypatch.setattr(decoding, "LARGE", 320 * 240)
    half = decode(data)
    assert half.size == (320, 240)
    assert close(half, whole.resize((320, 240), Image.Resampling.BOX), 3)


def test_the_decoder_stands_alone():
    """It is written beside exported models."""
    tree = ast.parse(Path(decoding.__file__).read_text())
    imported = {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported <= {"__future__", "io", "warnings", "functools", "typing", "numpy", "PIL"}


def test_postscript_is_never_run(tmp_path):
    eps = io.BytesIO()
    picture(1).save(eps, "EPS")
    with pytest.raises(ImageError):
        decode(eps.getvalue())
    assert ".eps" not in image_extensions()
    assert {".jpg", ".png", ".webp", ".tif"} <= image_extensions()
    (tmp_path / "a.eps").write_bytes(eps.getvalue())
    with pytest.raises(ImageError):
        check_header(str(tmp_path / "a.eps"))


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_give_an_image_or_an_image_error(data):
    prefix = encoded(picture(1), "JPEG")[:150]
    for candidate in (data, prefix + data):
        with contextlib.suppress(ImageError):
            assert decode(candidate).mode == "RGB"


# -- preprocessing -----------------------------------------------------------------------------------------------


def open_clip_pixels(image: Image.Image, prep: Preprocessing) -> np.ndarray:
    """open_clip's inference transform up to normalization, with mean 0 and deviation 1."""
    from open_clip import image_transform

    size = prep.size[0] if prep.size[0] == prep.size[1] else prep.size
    transform = image_transform(
        size,
        is_train=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        resize_mode=prep.resize_mode,
        interpolation=prep.interpolation,
        fill_color=prep.fill_color,
    )
    return np.rint(transform(image).numpy().transpose(1, 2, 0) * 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("side", [(32, 32), (96, 96), (24, 40)])
@pytest.mark.parametrize("source", [(50, 50), (61, 33), (33, 61), (8, 8), (300, 17), (96, 40)])
def test_center_view_equals_open_clip(mode, side, source):
    prep = Preprocessing(size=side, resize_mode=mode, fill_color=7 if mode == "longest" else 0)
    for interpolation in ("bicubic", "bilinear"):
        if interpolation == "bilinear" and side == (24, 40) and mode == "shortest":
            continue  # open_clip resizes to an oblong target with bicubic whatever is set
        prep = Preprocessing(size=side, resize_mode=mode, fill_color=prep.fill_color, interpolation=interpolation)
        image = picture(11, size=source)
        np.testing.assert_array_equal(center_view(image, prep), open_clip_pixels(image, prep))


def test_gray_images_equal_open_clip_too():
    image = picture(12, size=(61, 33), mode="L")
    prep = Preprocessing(size=(32, 32))
    np.testing.assert_array_equal(center_view(decode(encoded(image)), prep), open_clip_pixels(image, prep))


def test_a_very_long_strip_needs_no_huge_image():
    strip = picture(13, size=(6000, 3))
    prep = Preprocessing(size=(96, 96))
    out = center_view(strip, prep)
    reference = np.asarray(strip.resize((192_000, 96), Image.Resampling.BICUBIC))[:, 95_952:96_048]
    assert np.abs(out.astype(int) - reference.astype(int)).max() <= 1


# -- views -------------------------------------------------------------------------------------------------------


def draws_of(data: bytes, views: ViewSettings, round: int = 0) -> np.ndarray:
    return view_noise(np.frombuffer(content_hash(data), np.uint8)[None], views, round)[0]


def test_views_depend_on_seed_content_index_and_round_only():
    views = ViewSettings(count=4, seed=3)
    first = draws_of(b"a", views)
    np.testing.assert_array_equal(first, draws_of(b"a", views))
    both = view_noise(np.frombuffer(content_hash(b"b") + content_hash(b"a"), np.uint8).reshape(2, 16), views)
    np.testing.assert_array_equal(first, both[1])
    longer = draws_of(b"a", ViewSettings(count=6, seed=3))
    np.testing.assert_array_equal(first, longer[:4])
    for other in (draws_of(b"b", views), draws_of(b"a", views, round=1), draws_of(b"a", ViewSettings(count=4, seed=4))):
        assert not np.isclose(first, other).any()
    assert len(np.unique(first)) == first.size


@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    draws=st.lists(st.floats(0, 1), min_size=5, max_size=5),
    low=st.floats(0.01, 1.0),
)
def test_crops_lie_inside_and_have_their_area(width, height, draws, low):
    views = ViewSettings(scale_min=low)
    left, top, right, bottom = crop_box(width, height, np.array(draws), views)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    area, ratio = (right - left) * (bottom - top), (right - left) / (bottom - top)
    wanted = (low + (1 - low) * draws[0]) * width * height
    assert area <= wanted * (1 + 1e-6) + 1e-6
    if max(width, height) * 3 <= 4 * min(width, height):  # every area can be had at an allowed ratio
        assert math.isclose(area, wanted, rel_tol=1e-6)
        assert 0.75 - 1e-6 <= ratio <= 4 / 3 + 1e-6


def test_crop_areas_are_uniform_and_positions_fill_the_image():
    views = ViewSettings(count=1, flip=True)
    hashes = np.random.default_rng(0).integers(0, 256, (4000, 16), dtype=np.uint8)
    noise = view_noise(hashes, views)[:, 0]
    boxes = np.array([crop_box(80, 60, row, views) for row in noise])
    share = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 4800
    np.testing.assert_allclose(np.quantile(share, [0.1, 0.5, 0.9]), [0.55, 0.75, 0.95], atol=0.02)
    assert abs((noise[:, 4] < 0.5).mean() - 0.5) < 0.03
    assert abs(boxes[:, [0, 2]].mean() - 40) < 1
    assert abs(boxes[:, [1, 3]].mean() - 30) < 1


def test_tiny_images_get_distinct_sensible_views():
    digit = Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)).convert("RGB")
    views = ViewSettings(count=6, flip=False)
    prep = Preprocessing(size=(96, 96))
    out = augmented_views(digit, prep, views, draws_of(b"digit", views))
    assert out.shape == (6, 96, 96, 3)
    assert out.dtype == np.uint8
    assert len({view.tobytes() for view in out}) == 6
    whole = np.asarray(digit.resize((96, 96), Image.Resampling.BICUBIC), float)
    for view in out:  # a view shows half of the digit at least: its brightness stays near
        assert abs(view.mean() - whole.mean()) < 40


def test_one_pixel_image():
    dot = Image.new("RGB", (1, 1), (9, 8, 7))
    views = ViewSettings()
    out = augmented_views(dot, Preprocessing(size=(16, 16)), views, draws_of(b"dot", views))
    assert (out == np.array([9, 8, 7])).all()
    assert (center_view(dot, Preprocessing(size=(16, 16))) == np.array([9, 8, 7])).all()


def test_mirroring_is_an_option_and_mirrors():
    image = picture(15, size=(60, 60))
    prep = Preprocessing(size=(16, 16))
    draws = draws_of(b"m", ViewSettings(count=8))
    plain = augmented_views(image, prep, ViewSettings(count=8, flip=False), draws)
    mirrored = augmented_views(image, prep, ViewSettings(count=8), draws)
    flips = draws[:, 4] < 0.5
    assert flips.any()
    assert not flips.all()
    np.testing.assert_array_equal(mirrored[~flips], plain[~flips])
    np.testing.assert_array_equal(mirrored[flips], plain[flips][:, :, ::-1])


def test_shrinking_large_photographs_first_changes_little():
    image = picture(16, size=(1200, 900))
    prep, views = Preprocessing(size=(32, 32)), ViewSettings(count=5)
    draws = draws_of(b"large", views)
    out = augmented_views(image, prep, views, draws)
    for view, numbers in zip(out, draws, strict=True):
        direct = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, box=crop_box(1200, 900, numbers, views)))
        direct = direct[:, ::-1] if numbers[4] < 0.5 else direct
        assert np.abs(view.astype(int) - direct.astype(int)).mean() < 1.0


def test_view_settings_are_checked():
    for bad in ({"count": 0}, {"scale_min": 0.0}, {"scale_min": 0.9, "scale_max": 0.5}, {"ratio_max": 0.9}):
        with pytest.raises(ValueError, match="views want"):
            ViewSettings(**bad)
