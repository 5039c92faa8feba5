"""Pictures from strangers: keys of transparency, metadata, memory, what no format can hold."""

import io
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_files import png, png_chunk, tiff
from PIL import Image

from adaconv_jax import images
from adaconv_jax.cli.attempt import attempt

RNG = np.random.default_rng(0)
BLUE = (0.0, 0.0, 1.0)


def decoded(data: bytes, **options) -> np.ndarray:
  return np.asarray(images.decode(data, name="x.img", **options)).astype(int)


def encoded(picture, kind: str, **options) -> bytes:
  file = io.BytesIO()
  picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
  picture.save(file, kind, **options)
  return file.getvalue()


# PNG's transparent colors (tRNS), against section 11.3.1.1 of its specification.


def key_chunk(*values: int) -> bytes:
  return png_chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_each_gray_key_below_8_bits_hides_its_own_gray_and_no_other(depth):
  grays = np.arange(2**depth)[None, :, None]
  for key in range(2**depth):
    # The bits above the depth are to be ignored.
    for sent in (key, key | 1 << depth, key | 0xFF00):
      got = decoded(png(grays, depth, 0, [key_chunk(sent)]), background=BLUE)
      for gray in range(2**depth):
        level = gray * 255 // (2**depth - 1)
        expected = (0, 0, 255) if gray == key else (level, level, level)
        assert tuple(got[0, gray]) == expected, (depth, key, sent, gray)


@pytest.mark.parametrize("key", [0, 1, 127, 128, 254, 255])
def test_a_gray_key_of_8_bits_hides_its_own_gray_and_no_other(key):
  got = decoded(png(np.arange(256)[None, :, None], 8, 0, [key_chunk(key)]), background=BLUE)
  expected = np.repeat(np.arange(256)[:, None], 3, 1)
  expected[key] = (0, 0, 255)
  assert np.array_equal(got[0], expected)


def test_a_gray_key_of_16_bits_hides_one_of_the_grays_that_round_alike():
  grays = np.arange(1000, 1600)[None, :, None]
  for key in (1000, 1234, 1599):
    got = decoded(png(grays, 16, 0, [key_chunk(key)]), background=BLUE)[0]
    hidden = (got == (0, 0, 255)).all(-1)
    assert np.flatnonzero(hidden).tolist() == [key - 1000]
    assert np.array_equal(got[~hidden][:, 0], np.round(grays[0, :, 0] / 257)[~hidden])


def test_a_color_key_of_8_bits_hides_one_color():
  colors = np.array([[(1, 2, 3), (1, 2, 4), (0, 2, 3), (1, 3, 3)]])
  for sent in ((1, 2, 3), (0x0101, 0xFF02, 3)):
    got = decoded(png(colors, 8, 2, [key_chunk(*sent)]), background=BLUE)
    assert got[0].tolist() == [[0, 0, 255], [1, 2, 4], [0, 2, 3], [1, 3, 3]]


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_color_key_of_16_bits_hides_one_of_the_colors_of_the_same_upper_bytes(interlaced):
  colors = np.array([[(0x0102, 0x0203, 0x0304), (0x0103, 0x0203, 0x0304), (0x0102, 0, 0x0304)]])
  data = png(colors, 16, 2, [key_chunk(*colors[0, 0])])
  if interlaced:  # a picture of one row and three columns has passes 1, 4 and 6
    rows = [b"\0" + struct.pack(">3H", *colors[0, x]) for x in (0, 2, 1)]
    header = struct.pack(">IIBBBBB", 3, 1, 16, 2, 0, 0, 1)
    parts = (b"IHDR", header), (b"tRNS", struct.pack(">3H", *colors[0, 0]))
    chunks = [png_chunk(*part) for part in (*parts, (b"IDAT", zlib.compress(b"".join(rows))))]
    data = data[:8] + b"".join(chunks) + png_chunk(b"IEND", b"")
  got = decoded(data, background=BLUE)
  assert got[0].tolist() == [[0, 0, 255], [1, 2, 3], [1, 0, 3]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_alphas_of_a_palette_are_those_of_its_entries(depth):
  count = 2**depth
  palette = np.stack([np.arange(count) % 256, np.full(count, 100), np.full(count, 50)], -1)
  # 255 and 0 alone are a special case of Pillow's, and a line feed at the end of it another.
  for alphas in ([0], [255], [255, 0], [0, 10], [128, 255], [255, 10, 0][:count]):
    chunks = [png_chunk(b"PLTE", bytes(palette.astype("u1"))), png_chunk(b"tRNS", bytes(alphas))]
    got = decoded(png(np.arange(count)[None, :, None], depth, 3, chunks), background=BLUE)
    alpha = np.array([*alphas, *[255] * (count - len(alphas))])[:, None] / 255
    expected = palette * alpha + np.array((0, 0, 255)) * (1 - alpha)
    assert np.abs(got[0] - expected).max() <= 1, (depth, alphas)


def test_a_key_of_the_wrong_length_is_refused_by_name():
  for depth, color, body in ((8, 0, b"\0"), (8, 2, b"\0\1\0\2")):
    data = png(np.zeros((1, 1, 3 if color else 1)), depth, color, [png_chunk(b"tRNS", body)])
    with pytest.raises(images.ImageError, match=r"^x\.img: .*tRNS"):
      decoded(data)


# Metadata.

PIXELS = RNG.integers(0, 256, (5, 7, 3))
LARGE = zlib.compress(bytes(3_000_000))
METADATA = {
  "large text": png_chunk(b"zTXt", b"Comment\0\0" + LARGE),
  "large international text": png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
  "large XMP": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
  "large profile": png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(20_000_000))),
  "profile compressed another way": png_chunk(b"iCCP", b"x\0\7abc"),
  "profile without an end": png_chunk(b"iCCP", b"x"),
  "text compressed another way": png_chunk(b"zTXt", b"x\0\7abc"),
  "wrong checksum": png_chunk(b"tEXt", b"a\0b")[:-1] + b"\0",
  "gamma": png_chunk(b"gAMA", b"\0"),
  "chromaticities": png_chunk(b"cHRM", b"\0"),
  "resolution": png_chunk(b"pHYs", b"\0"),
  "rendering intent": png_chunk(b"sRGB", b""),
  "EXIF": png_chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
  "no EXIF": png_chunk(b"eXIf", b"nothing of the kind"),
  "old EXIF": png_chunk(b"tEXt", b"Raw profile type exif\0\n\n\n\nno hexadecimal"),
  "animation": png_chunk(b"acTL", b"\0") + png_chunk(b"fcTL", b"\0"),
  "text named like a key": png_chunk(b"tEXt", b"transparency\0what"),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("case", METADATA)
def test_no_metadata_refuse_the_pixels_of_a_png(case, place):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert np.array_equal(decoded(png(PIXELS, 8, 2, **{place: [METADATA[case]]})), PIXELS)


def test_metadata_of_many_chunks_are_left_out_together():
  texts = [png_chunk(b"tEXt", b"k%d\0" % i + bytes(1_000_000)) for i in range(70)]
  assert np.array_equal(decoded(png(PIXELS, 8, 2, texts)), PIXELS)


@pytest.mark.parametrize(
  "chunk",
  [
    png_chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"),
    png_chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'),
    png_chunk(
      b"iTXt",
      b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<tiff:Orientation>3</tiff:Orientation>"),
    ),
  ],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_the_orientation_of_a_png_is_applied_wherever_it_is_written(chunk, place):
  assert np.array_equal(decoded(png(PIXELS, 8, 2, **{place: [chunk]})), PIXELS[::-1, ::-1])


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
  return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


@pytest.mark.parametrize(
  "marker, body",
  [
    (0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff"),
    (0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    (0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\x04\0\x01\0\0\0\xff\xff\xff\xff\0\0\0\0"),
    (0xE2, b"MPF\0nothing"),
    (0xE2, b"ICC_PROFILE\0"),
    (0xE0, b"JFIF\0"),
    (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x01\0"),
    (0xEE, b"Adobe"),
  ],
)
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_no_metadata_refuse_the_pixels_of_a_jpeg(marker, body, action):
  data = encoded(PIXELS.astype(np.uint8), "JPEG", quality=95)
  expected = decoded(data)
  with warnings.catch_warnings():
    warnings.simplefilter(action)
    assert np.array_equal(decoded(with_segment(data, marker, body)), expected)


RGB_TIFF = {256: 7, 257: 5, 258: (8, 8, 8), 259: 1, 262: 2, 277: 3, 278: 5, 279: 105}


@pytest.mark.parametrize("tag", [34665, 34853, 40965, 700, 33723, 282, 305, 34377])
@pytest.mark.parametrize("value", [0, 2, 2**32 - 1])
def test_no_metadata_refuse_the_pixels_of_a_tiff(tag, value):
  data = tiff(RGB_TIFF, bytes(PIXELS.astype(np.uint8)))
  assert np.array_equal(decoded(data), PIXELS)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    broken = tiff({**RGB_TIFF, tag: value}, bytes(PIXELS.astype(np.uint8)))
    assert np.array_equal(decoded(broken), PIXELS)


def test_a_message_says_what_is_true_of_a_picture_that_is_not_read():
  floats = {**RGB_TIFF, 258: (32, 32, 32), 339: (3, 3, 3), 279: 420}
  with pytest.raises(images.ImageError, match=r"^x\.img: floating-point pixels"):
    decoded(tiff(floats, PIXELS.astype("<f4").tobytes()))
  wide = {**RGB_TIFF, 258: (64, 64, 64), 279: 840}
  with pytest.raises(images.ImageError, match=r"^x\.img: a TIFF with samples of 64, 64, 64 bits"):
    decoded(tiff(wide, PIXELS.astype("<u8").tobytes()))
  with pytest.raises(images.ImageError, match=r"^x\.img: a PNG file that is damaged"):
    decoded(png(PIXELS, 8, 2)[:14] + bytes(40))
  with pytest.raises(images.ImageError, match=r"^x\.img: not an image"):
    decoded(b"not a picture at all, but some text")


def test_a_tiff_that_is_cut_off_is_called_so_and_not_one_of_rare_samples():
  for compression in ("raw", "tiff_lzw", "tiff_deflate"):
    data = encoded(PIXELS.astype(np.uint8), "TIFF", compression=compression)
    for length in (10, len(data) // 2, len(data) - 40):
      with pytest.raises(images.ImageError, match=r"^x\.img: truncated or corrupt"):
        decoded(data[:length])
  gray = {256: 2, 257: 2, 258: 8, 259: 1, 262: 8, 277: 1, 278: 2, 279: 4}  # L*a*b* of one channel
  with pytest.raises(images.ImageError, match=r"^x\.img: a TIFF file that is .* of a rare kind$"):
    decoded(tiff(gray, bytes(4)))


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_gray_of_any_depth_reaches_from_black_to_white(bits, white_is_zero):
  # TIFF 6.0, section 4: 0 is white with the photometric interpretation 0, and black with 1.
  largest = 2**bits - 1
  values = np.array([0, 1, largest // 3, largest // 2, largest - 1, largest, 0, largest])
  text = "".join(f"{value:0{bits}b}" for value in values)
  data = int(text, 2).to_bytes(len(text) // 8, "big")
  if bits == 16:
    data = values.astype("<u2").tobytes()
  tags = {256: 8, 257: 1, 258: bits, 259: 1, 262: 1 - white_is_zero, 277: 1, 278: 1, 279: len(data)}
  expected = 255 * (largest - values if white_is_zero else values) / largest
  try:
    got = decoded(tiff(tags, data))
  except images.ImageError as error:  # Pillow does not read it
    assert (bits, white_is_zero) == (12, True) and "12 bits is not read" in str(error)
    return
  np.testing.assert_allclose(got, np.repeat(expected[None, :, None], 3, 2), atol=0.51)


# Memory.


def test_a_small_picture_in_a_huge_tile_is_refused_before_it_is_decoded():
  tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 46320, 323: 46320, 325: 100}
  data = tiff(tags, zlib.compress(bytes(10_000)), at_tag=324)
  with pytest.raises(images.ImageError, match=r"^x\.img: decoding .*2146 MB, over the limit"):
    decoded(data)


def test_a_picture_of_a_million_rows_counts_what_its_rows_cost():
  data = png(np.zeros((1, 1, 1)), 8, 0)
  data = data[:8] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 80_000_000, 8, 0, 0, 0, 0))
  with pytest.raises(images.ImageError, match="over the limit"):
    decoded(data + png_chunk(b"IDAT", zlib.compress(bytes(1000))))


def test_a_webp_is_refused_before_its_canvas_is_made():
  for chunk in (
    b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_000).to_bytes(3, "little") * 2,
    b"VP8L" + struct.pack("<IB", 10, 0x2F) + (15_000 | 15_000 << 14).to_bytes(4, "little"),
    b"VP8 " + struct.pack("<I", 10) + b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 15_000, 15_000),
  ):
    data = b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk + bytes(20)
    with pytest.raises(images.ImageError, match=r"^x\.img: \d+ x \d+ is .* million pixels, over"):
      decoded(data)


def test_a_jpeg_of_very_many_passes_is_refused():
  data = encoded(np.zeros((2000, 2000, 3), np.uint8), "JPEG", progressive=True)
  start = data.index(b"\xff\xda")
  scan = data[start : data.index(b"\xff", start + 2)]
  with pytest.raises(images.ImageError, match=r"^x\.img: a JPEG of \d+ passes"):
    decoded(data[:-2] + scan * 1200 + data[-2:])


@pytest.mark.parametrize("place", ["after the end", "in the metadata"])
def test_bytes_that_are_no_part_of_the_picture_are_no_passes_of_a_jpeg(place, monkeypatch):
  monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64)
  data = encoded(np.full((64, 64, 3), 90, np.uint8), "JPEG")
  film = b"\xff\xda" * 10_000  # in random bytes, one in 65,536 is such a pair
  if place == "after the end":
    data += film
  else:
    data = data[:2] + b"\xff\xe2" + struct.pack(">H", len(film) + 2) + film + data[2:]
  assert (decoded(data) == 90).all()


MEASURE = """
import io, resource, sys
import numpy as np
from PIL import Image
from adaconv_jax import images

SIDE = 3000
case = sys.argv[1]
gray = np.zeros((SIDE, SIDE), np.uint8)
file = io.BytesIO()
if case == "16-bit gray":
  Image.fromarray(gray.astype(np.uint16)).save(file, "PNG", transparency=7)
elif case == "RGBA":
  Image.new("RGBA", (SIDE, SIDE)).save(file, "PNG")
elif case == "palette":
  Image.fromarray(gray).convert("P").save(file, "PNG", transparency=bytes([9, 3]))
elif case == "WEBP":
  Image.new("RGBA", (SIDE, SIDE)).save(file, "WEBP", lossless=True)
elif case == "JPEG":
  Image.fromarray(gray).convert("RGB").save(file, "JPEG", progressive=True, subsampling=0)
elif case == "TIFF":
  Image.new("RGBA", (SIDE, SIDE)).save(file, "TIFF", compression="tiff_adobe_deflate")
data, held = file.getvalue(), []

class Recorder(images.Budget):
  def hold(self, count):
    held.append(count)
    return super().hold(count)

images._MEMORY = Recorder(images.MAX_BYTES)
small = io.BytesIO()
Image.open(io.BytesIO(data)).crop((0, 0, 8, 8)).save(small, "TIFF")
images.decode(small.getvalue(), name="warm")

def kilobytes(name):
  return next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith(name))

open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = kilobytes("VmRSS")
images.decode(data, name="x")
print(kilobytes("VmHWM") - before, held[-1] // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("case", ["16-bit gray", "RGBA", "palette", "WEBP", "JPEG", "TIFF"])
def test_decoding_takes_no_more_memory_than_it_has_reserved(case):
  done = subprocess.run(
    [sys.executable, "-c", MEASURE, case], capture_output=True, text=True, check=True
  )
  taken, reserved = map(int, done.stdout.split())
  assert 10_000 < taken < reserved + 8_000, (taken, reserved)  # kB; some for the heap


def test_threads_take_no_more_than_the_budget_together(monkeypatch):
  held, most, lock = [0], [0], threading.Lock()

  class Recorder(images.Budget):
    def hold(self, count):
      inner = super().hold(count)

      class Counted:
        def __enter__(self):
          inner.__enter__()
          with lock:
            held[0] += count
            most[0] = max(most[0], held[0])
          time.sleep(0.002)

        def __exit__(self, *exception):
          with lock:
            held[0] -= count
          return inner.__exit__(*exception)

      return Counted()

  data = encoded(np.zeros((100, 96, 3), np.uint8), "PNG")
  one = 12 * 100 * 100
  monkeypatch.setattr(images, "_MEMORY", Recorder(2 * one + 5))
  errors = []

  def work():
    try:
      for _ in range(5):
        decoded(data)
    except BaseException as error:
      errors.append(error)

  threads = [threading.Thread(target=work) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  assert not errors and held == [0]
  assert most == [2 * one]


def test_a_failed_decoding_gives_its_memory_back(monkeypatch):
  monkeypatch.setattr(images, "_MEMORY", images.Budget(12 * 54 * 50 + 1))
  noisy = RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8)
  for kind in ("PNG", "JPEG", "TIFF"):
    data = encoded(noisy, kind)
    for _ in range(3):
      with pytest.raises(images.ImageError):
        decoded(data[: len(data) // 2])
  assert decoded(encoded(noisy, "PNG")).shape == (50, 50, 3)


def test_a_picture_that_scaling_would_blow_up_is_refused_by_name():
  line = encoded(np.zeros((1, 2000, 3), np.uint8), "PNG")
  for size in (512, 100_000):
    with pytest.raises(images.ImageError, match=r"^x\.png: 2000 x 1 scaled to .* over the limit"):
      images.decode_square(line, name="x.png", size=size)
    with pytest.raises(images.ImageError, match=r"^image: 2000 x 1 scaled to "):
      images.resize_shorter(Image.new("RGB", (2000, 1)), size)
  assert images.resize_shorter(Image.new("RGB", (2000, 1)), 2).size == (4000, 2)


# What a format cannot hold.


@pytest.mark.parametrize("suffix, side", [(".webp", 16384), (".jpg", 65501), (".gif", 65536)])
def test_a_side_that_the_format_cannot_hold_is_an_image_error(suffix, side, tmp_path, capsys):
  for shape in ((1, side, 3), (side, 1, 3)):
    path = tmp_path / f"wide{suffix}"
    with pytest.raises(images.ImageError, match=f"per side, got .*{side}.*.png"):
      images.save(path, np.zeros(shape, np.uint8))
    assert attempt(path, images.save, path, np.zeros(shape, np.uint8)) is None
    assert f"error: {path}: " in capsys.readouterr().err
  images.save(tmp_path / f"fits{suffix}", np.zeros((1, side - 1, 3), np.uint8))
  images.save(tmp_path / "fits.png", np.zeros((1, side, 3), np.uint8))
  assert not (tmp_path / f"wide{suffix}").exists()


def test_a_picture_of_no_pixels_is_an_image_error(tmp_path):
  with pytest.raises(images.ImageError, match="per side, got 0 x 4"):
    images.save(tmp_path / "x.png", np.zeros((4, 0, 3), np.uint8))


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_a_tiff_that_says_more_rows_or_columns_than_it_has_is_refused(turn):
  data = encoded(Image.new("RGB", (64, 48), "red"), "TIFF", tiffinfo={274: turn, 278: 48})
  assert images.decode(data, name="x.tif").size == ((48, 64) if turn == 6 else (64, 48))
  first = int.from_bytes(data[4:8], "little") + 2  # entry of the directory
  place = next(at + 8 for at in range(first, len(data), 12) if data[at : at + 2] == b"\x01\x01")
  data = data[:place] + struct.pack("<I", 200) + data[place + 4 :]
  with pytest.raises(images.ImageError, match="^x.tif: truncated or corrupt"):
    images.decode(data, name="x.tif")


def test_a_broken_tiff_writes_nothing_to_the_terminal(capfd):
  data = encoded(np.zeros((40, 40, 3), np.uint8), "TIFF", compression="tiff_lzw")
  failed = 0
  for place in range(8, 40):
    broken = bytearray(data)
    broken[place] ^= 0x55
    try:
      decoded(bytes(broken))
    except images.ImageError:
      failed += 1
  assert failed and capfd.readouterr() == ("", "")
