"""What a file is that is no safetensors file, for errors."""

import codecs
from pathlib import Path

from adaconv_jax.files import open_regular

_OTHER_PROGRAMS = (
  "`adaconv import` converts models of two PyTorch projects; of VGG weights, `adaconv vgg import` "
  "makes a file for --vgg-weights"
)
_PICTURE = "a picture, which --content and --style take"
# First bytes of files that are not safetensors, and what they are.
_KINDS = (
  (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, such as Keras's .h5. {_OTHER_PROGRAMS}"),
  (b"\x93NUMPY", "a NumPy array (.npy)"),
  (b"\x1f\x8b", "a gzip archive, which has to be unpacked first"),
  (b"BZh", "a bzip2 archive, which has to be unpacked first"),
  (b"\xfd7zXZ", "an xz archive, which has to be unpacked first"),
  (b"7z\xbc\xaf", "a 7z archive, which has to be unpacked first"),
  (b"Rar!", "a RAR archive, which has to be unpacked first"),
  (b"\x89PNG", _PICTURE),
  (b"\xff\xd8\xff", _PICTURE),
  (b"GIF8", _PICTURE),
  (b"%PDF", "a PDF"),
  (b"GGUF", f"a GGUF file. {_OTHER_PROGRAMS}"),
  (b"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` gets the file itself"),
)
# Enough for the names of the first parts of an archive.
_HEAD_BYTES = 2**16


def foreign_kind(path: Path) -> str | None:
  """Says what a file is that is not safetensors, from its first bytes; None if they say nothing."""
  try:
    with open_regular(path, at_most=2**62) as file:
      head = file.read(_HEAD_BYTES)
  except (OSError, ValueError):
    return None
  for start, kind in _KINDS:
    if head.startswith(start):
      return kind
  if head.startswith(b"PK\x03\x04"):
    if b"/data.pkl" in head:
      return f"a PyTorch file (.pth, .pt). {_OTHER_PROGRAMS}"
    if b".npy" in head[:300]:
      return f"NumPy arrays (.npz). {_OTHER_PROGRAMS}"
    if b"config.json" in head and b".h5" in head:
      return f"a Keras model (.keras). {_OTHER_PROGRAMS}"
    return "a zip archive; if a model is in it, unpack it first"
  # Pickles of protocol 2 to 5, in which older PyTorch wrote.
  if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
    return f"a pickle, such as an old PyTorch file (.pth, .pt). {_OTHER_PROGRAMS}"
  if head[257:262] == b"ustar":
    return "a tar archive, which has to be unpacked first"
  start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
  if start.startswith((b"<!doctype html", b"<html")):
    return "a web page (HTML); download the file itself"
  if not head or b"\0" in head:
    return None
  try:
    # The last character may be cut.
    text = codecs.getincrementaldecoder("utf-8")().decode(head)
  except UnicodeDecodeError:
    return None
  return "text" if all(c.isprintable() or c in "\t\r\n\f" for c in text) else None
