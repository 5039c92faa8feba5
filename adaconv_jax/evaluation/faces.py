"""Boxes of the faces in contents, as `adaconv evaluate --faces` takes them."""

import csv
import io

from adaconv_jax.evaluation.similarity import Box
from adaconv_jax.files import MAX_JSON_BYTES, expand, printable, read_regular
from adaconv_jax.images import scaled_size

_COLUMNS = ("name", "left", "top", "right", "bottom")


def read_faces(path: str) -> dict[str, list[Box]]:
  """Reads a CSV file with a row per face: name, left, top, right, bottom.

  Returns:
    The boxes by name of the picture's file, in shares of its width and height.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is no regular file or no CSV, columns are missing, or a box is none.
  """
  where = f"--faces {printable(path)}"
  file = expand(path)
  try:
    text = read_regular(file, at_most=MAX_JSON_BYTES).decode("utf-8-sig")
  except UnicodeDecodeError:
    raise ValueError(f"{where}: expected a CSV file, this is not text") from None
  except ValueError as error:
    raise ValueError(f"{where}: {str(error).removeprefix(f'{file}: ')}") from None
  try:
    return _parse(text, where)
  except csv.Error as error:  # such as a field without an end
    raise ValueError(f"{where}: expected a CSV file, this is none ({error})") from None


def _parse(text: str, where: str) -> dict[str, list[Box]]:
  reader = csv.DictReader(io.StringIO(text, newline=""))
  missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
  if missing:
    raise ValueError(
      f"{where}: the column {missing[0]!r} is missing; expected {', '.join(_COLUMNS)}"
    )
  faces: dict[str, list[Box]] = {}
  for row in reader:
    values = [row[name] for name in _COLUMNS[1:]]
    try:
      left, top, right, bottom = map(float, values)
      valid = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    except (TypeError, ValueError):
      valid = False
    if not valid:
      given = ", ".join(printable(str(value)) for value in values)
      raise ValueError(
        f"{where}, line {reader.line_num}: expected left < right and top < bottom, from 0 to 1, "
        f"got {given}"
      )
    faces.setdefault(row["name"], []).append((left, top, right, bottom))
  return faces


def in_square(box: Box, size: tuple[int, int], side: int) -> Box | None:
  """Moves a box from a picture to its central square.

  Args:
    box: in shares of the picture's width and height.
    size: width and height of the picture.
    side: of the square, to which the picture is scaled on its shorter side.

  Returns:
    Left, top, right and bottom in pixels of the square; None if the center of the box is outside.
  """
  (width, height), (left, top, right, bottom) = scaled_size(size, side), box
  x, y = (width - side) // 2, (height - side) // 2
  moved = (left * width - x, top * height - y, right * width - x, bottom * height - y)
  inside = 0 <= moved[0] + moved[2] <= 2 * side and 0 <= moved[1] + moved[3] <= 2 * side
  return moved if inside else None
