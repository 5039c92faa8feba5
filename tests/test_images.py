import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaconv_jax import images

RNG = np.random.default_rng(0)
# Smooth, so that lossy formats keep it.
PHOTO = np.stack(np.broadcast_arrays(
  np.linspace(20, 230, 48)[:, None], np.linspace(240, 30, 64)[None], np.full((1, 1), 90.0)
), -1).astype(np.uint8)  # fmt: skip


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
  file = io.BytesIO()
  picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
  picture.save(file, kind, **options)
  return file.getvalue()


def decoded(data: bytes, **options) -> np.ndarray:
  image = images.decode(data, name="photo.png", **options)
  assert image.mode == "RGB"
  return np.asarray(image)


def icc_profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
  """Assembles an ICC 2.4 display profile from its tag data (specification ICC.1:2001-04)."""
  tags = {b"wtpt": icc_xyz(0.9642, 1.0, 0.8249), **tags}
  tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
  tags[b"cprt"] = b"text\0\0\0\0none\0"
  table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
  for name, data in tags.items():
    data += bytes(-len(data) % 4)
    table += name + struct.pack(">II", start + len(body), len(data))
    body += data
  rest = struct.pack(">I", len(tags)) + table + body
  header = struct.pack(">I4sI4s4s4s12s4s", 128 + len(rest), b"none", 0x02400000, b"mntr", space,
                       b"XYZ ", bytes(12), b"acsp")  # fmt: skip
  header += bytes(28) + struct.pack(">iii", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
  return header + bytes(128 - len(header)) + rest


def icc_xyz(*xyz: float) -> bytes:
  return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(v * 65536) for v in xyz))


LINEAR = b"curv\0\0\0\0" + struct.pack(">I", 0)
SRGB_PRIMARIES = (  # adapted to D50, as a profile holds them
  icc_xyz(0.4360, 0.2225, 0.0139),
  icc_xyz(0.3851, 0.7169, 0.0971),
  icc_xyz(0.1431, 0.0606, 0.7141),
)


def rgb_profile(primaries=SRGB_PRIMARIES) -> bytes:
  curves = {b"rTRC": LINEAR, b"gTRC": LINEAR, b"bTRC": LINEAR}
  return icc_profile(b"RGB ", {**dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)),
                               **curves})  # fmt: skip


def srgb_encoded(linear: np.ndarray) -> np.ndarray:
  """IEC 61966-2-1: linear light in [0, 1] to sRGB in [0, 255]."""
  curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
  return 255 * curved


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_named_format_is_read(kind):
  difference = decoded(encoded(PHOTO, kind)).astype(int) - PHOTO
  assert np.abs(difference).mean() < (12 if kind == "GIF" else 2)  # GIF has 256 colors


def test_a_format_that_is_not_named_is_refused():
  with pytest.raises(images.ImageError, match="drawing.ppm: .*JPEG, PNG"):
    images.decode(encoded(PHOTO, "PPM"), name="drawing.ppm")


@pytest.mark.parametrize("orientation, upright", [
  (2, lambda a: a[:, ::-1]), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)),
  (8, lambda a: np.rot90(a)),
])  # fmt: skip
def test_exif_orientation_is_applied(orientation, upright):
  exif = Image.Exif()
  exif[0x0112] = orientation
  assert np.array_equal(decoded(encoded(PHOTO, exif=exif)), upright(PHOTO))


def test_broken_exif_leaves_the_picture_as_stored():
  data = encoded(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
  with pytest.warns(UserWarning, match="Corrupt EXIF"):
    assert decoded(data).shape == PHOTO.shape


def test_icc_profile_is_converted_to_srgb():
  expected = srgb_encoded(PHOTO / 255)
  assert np.abs(expected - PHOTO).mean() > 20
  actual = decoded(encoded(PHOTO, icc_profile=rgb_profile()))
  # lcms computes with 8-bit tables, and the primaries above have four digits.
  assert np.abs(actual - expected).max() <= 2


def test_icc_primaries_count():
  swapped = rgb_profile(SRGB_PRIMARIES[::-1])
  red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
  assert np.abs(decoded(encoded(red, icc_profile=swapped)) - [0, 0, 255]).max() <= 3


def test_icc_profile_of_a_gray_picture_with_alpha_is_converted():
  gray = PHOTO[..., 0]
  profile = icc_profile(b"GRAY", {b"kTRC": LINEAR})
  expected = srgb_encoded(gray / 255)[..., None]
  assert np.abs(decoded(encoded(gray, icc_profile=profile)) - expected).max() <= 2
  image = Image.merge("LA", [Image.fromarray(gray), Image.new("L", gray.shape[::-1], 255)])
  assert np.abs(decoded(encoded(image, icc_profile=profile)) - expected).max() <= 2


@pytest.mark.parametrize("profile", [
  b"not a profile", rgb_profile()[:140], icc_profile(b"GRAY", {b"kTRC": LINEAR})
], ids=["noise", "cut", "for gray"])  # fmt: skip
def test_unusable_icc_profile_is_taken_for_srgb(profile):
  assert np.array_equal(decoded(encoded(PHOTO, icc_profile=profile)), PHOTO)


def test_palette_and_black_and_white_are_read():
  palette = Image.fromarray(PHOTO).quantize(16)
  assert np.array_equal(decoded(encoded(palette)), np.asarray(palette.convert("RGB")))
  bits = RNG.random((8, 8)) < 0.5
  assert np.array_equal(decoded(encoded(bits)), np.repeat(255 * bits[..., None], 3, -1))


def test_icc_profile_of_a_palette_picture_is_converted():
  palette = Image.fromarray(PHOTO).quantize(16)
  expected = srgb_encoded(np.asarray(palette.convert("RGB")) / 255)
  assert np.abs(decoded(encoded(palette, icc_profile=rgb_profile())) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_clipped(kind):
  gray = RNG.integers(0, 65536, (16, 16)).astype(np.uint16)
  actual = decoded(encoded(gray, kind))
  assert np.array_equal(actual[..., 0], np.round(gray / 257))
  assert np.ptp(actual, -1).max() == 0


def test_pixels_without_a_stated_range_are_refused():
  with pytest.raises(images.ImageError, match="photo.png: floating-point"):
    decoded(encoded(np.ones((4, 4), np.float32), "TIFF"))
  with pytest.raises(images.ImageError, match="photo.png: 32-bit gray"):
    decoded(encoded(np.full((4, 4), 70_000, np.int32), "TIFF"))


def test_cmyk_is_converted():
  inks = [(0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]  # white, red, black
  image = Image.new("CMYK", (48, 16))
  for index, ink in enumerate(inks):
    image.paste(ink, (16 * index, 0, 16 * index + 16, 16))
  colors = decoded(encoded(image, "JPEG", quality=100))[8, 8::16]
  assert np.abs(colors.astype(int) - [[255, 255, 255], [255, 0, 0], [0, 0, 0]]).max() <= 3


def transparent_images() -> dict[str, bytes]:
  """Pictures whose left half is opaque gray 100 and whose right half hides gray 7."""
  color = np.full((8, 8), 7, np.uint8)
  color[:, :4] = 100
  gray, alpha = Image.fromarray(color), Image.fromarray(np.where(color == 100, 255, 0).astype("u1"))
  palette = Image.fromarray((color == 7).astype(np.uint8), "L").convert("P")
  palette.putpalette([100] * 3 + [7] * 3)
  return {
    "RGBA": encoded(Image.merge("RGBA", [gray, gray, gray, alpha])),
    "LA": encoded(Image.merge("LA", [gray, alpha])),
    "P, one color": encoded(palette, transparency=1),
    "P, a table": encoded(palette, transparency=bytes([255, 0])),
    "L, one color": encoded(gray, transparency=7),
    "RGB, one color": encoded(gray.convert("RGB"), transparency=(7, 7, 7)),
    "16 bits, one color": encoded(color.astype(np.uint16) * 257, transparency=7 * 257),
    "WEBP": encoded(Image.merge("RGBA", [gray, gray, gray, alpha]), "WEBP", lossless=True),
    "GIF": encoded(palette, "GIF", transparency=1),
  }


@pytest.mark.parametrize("case", transparent_images())
def test_alpha_is_composited_on_the_background(case):
  data = transparent_images()[case]
  for background, color in ((images.WHITE, (255, 255, 255)), ((0.0, 0.2, 1.0), (0, 51, 255))):
    actual = decoded(data, background=background)
    assert np.array_equal(actual[:, :4], np.full((8, 4, 3), 100))
    assert np.array_equal(actual[:, 4:], np.broadcast_to(color, (8, 4, 3)))


def test_half_transparent_pixels_are_blended():
  pixel = np.full((2, 2, 4), (255, 0, 0, 128), np.uint8)
  assert np.abs(decoded(encoded(pixel)) - np.array([255, 127, 127])).max() <= 1


def test_background_is_checked():
  for background in ((255, 255, 255), (1.0, 1.0)):
    with pytest.raises(ValueError, match="background: expected three numbers"):
      decoded(encoded(PHOTO), background=background)


def test_first_frame_of_an_animation_is_taken():
  frames = [Image.new("RGB", (8, 8), color) for color in ((200, 10, 10), (10, 200, 10))]
  data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
  assert np.abs(decoded(data) - np.array([200, 10, 10])).max() <= 2


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Truncated)")  # Pillow's, before its error
@pytest.mark.parametrize("kind, options", [
  ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {}),
  ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", {}),
])  # fmt: skip
def test_truncated_files_are_refused_by_name(kind, options):
  noisy = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
  data = encoded(noisy, kind, **options)
  for part in (0.05, 0.5, 0.98):
    with pytest.raises(images.ImageError, match="^holiday.img: "):
      images.decode(data[: int(part * len(data))], name="holiday.img")


@pytest.mark.parametrize("data", [b"", b"hello", bytes(1000)])
def test_other_files_are_refused_by_name(data):
  with pytest.raises(images.ImageError, match="^notes.jpg: not an image"):
    images.decode(data, name="notes.jpg")


def png_header(width: int, height: int) -> bytes:
  chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
  start += struct.pack(">I", zlib.crc32(chunk))
  return start + struct.pack(">I", 0) + b"IDAT"


@pytest.mark.parametrize("side", [10_000, 20_000])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_decompression_bombs_are_refused_before_they_are_decoded(side, action):
  with warnings.catch_warnings():
    warnings.simplefilter(action)
    with pytest.raises(images.ImageError, match=r"^bomb\.png: (?!truncated).*limit"):
      images.decode(png_header(side, side), name="bomb.png")


def test_at_least_decodes_jpeg_smaller_but_never_below():
  data = encoded(np.full((400, 600, 3), 120, np.uint8), "JPEG")
  shorter = {n: min(images.decode(data, name="a.jpg", at_least=n).size)
             for n in (1, 50, 51, 100, 199, 200, 201, 400, 999)}  # fmt: skip
  assert shorter == {1: 50, 50: 50, 51: 100, 100: 100, 199: 200, 200: 200, 201: 400, 400: 400,
                     999: 400}  # fmt: skip
  assert images.decode(encoded(PHOTO), name="a.png", at_least=8).size == (64, 48)
  with pytest.raises(ValueError, match="at_least: expected at least 1"):
    images.decode(data, name="a.jpg", at_least=0)


def test_load_returns_floats_between_0_and_1(tmp_path):
  path = tmp_path / "photo.png"
  path.write_bytes(encoded(PHOTO))
  image = images.load(path)
  assert image.dtype == np.float32
  np.testing.assert_allclose(image, PHOTO / 255, atol=1e-7)
  path.write_bytes(b"nothing")
  with pytest.raises(images.ImageError, match="photo.png"):
    images.load(path)
  with pytest.raises(FileNotFoundError, match="missing.png"):
    images.load(tmp_path / "missing.png")


@pytest.mark.parametrize("suffix", images.SUFFIXES)
def test_saved_images_come_back(tmp_path, suffix):
  path = tmp_path / "new" / f"photo{suffix.upper()}"
  images.save(path, PHOTO / np.float32(255))
  limit = {".gif": 24, ".jpg": 4, ".jpeg": 4, ".jfif": 4, ".jpe": 4, ".webp": 8}.get(suffix, 0)
  assert np.abs(images.load(path) * 255 - PHOTO).max() <= limit + 1e-4


def test_save_rounds_and_clips(tmp_path):
  image = np.array([[[-0.5, 1.7, 0.5], [0.4 / 255, 0.6 / 255, 254.6 / 255]]])
  images.save(tmp_path / "a.png", image)
  expected = [[[0, 255, 128], [0, 1, 255]]]
  assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), expected)


def test_save_keeps_color_edges_in_jpeg(tmp_path):
  stripes = np.zeros((32, 32, 3), np.float32)
  stripes[:, ::2, 0], stripes[:, 1::2, 2] = 1, 1
  images.save(tmp_path / "a.jpg", stripes)
  assert np.abs(images.load(tmp_path / "a.jpg") - stripes).max() < 0.1


def test_save_refuses_what_is_not_an_image(tmp_path):
  with pytest.raises(ValueError, match="image: .*NaN"):
    images.save(tmp_path / "a.png", np.full((4, 4, 3), np.nan))
  with pytest.raises(
    ValueError, match=r"image: expected the shape \[h, w, 3\], got \[1, 4, 4, 3\]"
  ):
    images.save(tmp_path / "a.png", np.zeros((1, 4, 4, 3)))
  with pytest.raises(ValueError, match="path: .*a.xyz"):
    images.save(tmp_path / "a.xyz", PHOTO)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "size, expected", [((60, 40), (30, 20)), ((40, 61), (20, 30)), ((7, 7), (20, 20))]
)
def test_resize_sets_the_shorter_side_and_keeps_the_aspect(size, expected):
  assert images.resize_shorter(Image.new("RGB", size), 20).size == expected
  with pytest.raises(ValueError, match="size: expected at least 1"):
    images.resize_shorter(Image.new("RGB", size), 0)


@pytest.mark.parametrize(("size", "box"), [((60, 41), (9, 0, 50, 41)), ((41, 60), (0, 9, 41, 50))])
def test_the_square_is_that_in_the_middle(size, box):
  image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
  assert images.center_square(image, 41).tobytes() == image.crop(box).tobytes()
  assert images.center_square(image, 20).size == (20, 20)


def test_a_square_of_a_file_is_that_of_its_picture():
  pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  for size, shorter in ((20, None), (20, 30)):
    got = images.decode_square(file.getvalue(), name="x", size=size, shorter=shorter)
    assert got.tobytes() == images.center_square(Image.fromarray(pixels), size, shorter).tobytes()


def test_resize_is_antialiased():
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[:, ::2] = 255
  small = np.asarray(images.resize_shorter(Image.fromarray(stripes), 16)).astype(int)
  assert np.abs(small[:, 2:-2] - 127).max() <= 2


def test_find_images_lists_by_suffix_in_order(tmp_path):
  names = ["b/2.JPG", "b/10.png", "a/z.webp", "c.tiff", "a.gif", "notes.txt", "._c.jpg",
           ".cache/thumb.jpg", "b.jpgx"]  # fmt: skip
  for name in RNG.permutation(names):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  found = [path.relative_to(tmp_path).as_posix() for path in images.find_images(tmp_path)]
  assert found == ["a/z.webp", "a.gif", "b/10.png", "b/2.JPG", "c.tiff"]
  with pytest.raises(NotADirectoryError, match="folder: .*c.tiff"):
    images.find_images(tmp_path / "c.tiff")


def test_contact_sheet_places_images_in_the_middle_of_their_cells():
  wide, tall = np.full((2, 6, 3), 0.25), np.full((4, 2, 3), 0.5)
  sheet = images.contact_sheet([[None, wide], [tall, tall], [tall, wide]], gutter=3, color=1.0)
  expected = np.ones((2 + 3 + 4 + 3 + 4, 2 + 3 + 6, 3))
  expected[0:2, 5:11] = 0.25
  expected[5:9, 0:2] = 0.5
  expected[5:9, 7:9] = 0.5
  expected[12:16, 0:2] = 0.5
  expected[13:15, 5:11] = 0.25
  assert sheet.dtype == np.float32
  assert np.array_equal(sheet, expected)


def test_contact_sheet_refuses_what_is_not_a_grid():
  image = np.zeros((2, 2, 3))
  for rows in ([], [[]], [[image], [image, image]]):
    with pytest.raises(ValueError, match="rows: expected rows of one length"):
      images.contact_sheet(rows)
  with pytest.raises(ValueError, match=r"rows\[0\]\[1\]: expected \[h, w, 3\]"):
    images.contact_sheet([[image, np.zeros((2, 2))]])


def test_example_images_can_be_read():
  folder = Path(__file__).parents[1] / "examples"
  paths = images.find_images(folder)
  assert len(paths) >= 16
  listed = (folder / "SOURCES.md").read_text()
  for path in paths:
    assert min(images.load(path).shape[:2]) >= 320
    assert path.name in listed
  assert sum(os.path.getsize(path) for path in paths) < 2.5e6


def test_an_alpha_is_saved_only_where_a_format_has_one(tmp_path):
  image, alpha = np.zeros((4, 5, 3), np.uint8), np.arange(20, dtype=np.uint8).reshape(4, 5)
  images.save(tmp_path / "a.png", image, alpha=alpha)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png"))[..., 3], alpha)
  with pytest.raises(ValueError, match="^alpha: expected None for JPEG"):
    images.save(tmp_path / "a.jpg", image, alpha=alpha)
  with pytest.raises(ValueError, match=r"^alpha: expected uint8 of the shape \[4, 5\], got uint8"):
    images.save(tmp_path / "a.png", image, alpha=alpha[:3])


def test_suffixes_name_the_formats_that_pillow_gives_them():
  assert images._KINDS == {name: Image.registered_extensions()[name] for name in images.SUFFIXES}
