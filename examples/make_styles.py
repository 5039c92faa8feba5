"""Renders the style images of `examples/style`; nothing here is taken from an existing picture.

    python examples/make_styles.py [names ...]

Every picture is drawn at twice its final size with NumPy and Pillow from a fixed seed, so the same
versions of both give the same files. Each function is one picture: it draws a scene and then the
marks of a technique over it, at several sizes and with varied colors, because these statistics are
what a style transfer transfers.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from brushes import (
  Array,
  blur,
  canvas,
  code,
  grid,
  hexes,
  mix,
  noise,
  paint,
  ramp,
  relief,
  smoothstep,
  to_array,
  to_image,
)
from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent / "style"


def night(rng: np.random.Generator, w: int, h: int) -> Array:
  """Thick swirling strokes: a night sky over hills."""
  x, y = grid(w, h)
  vx, vy = np.ones((h, w)), 0.35 * np.sin(5 * x + 2 * y)
  bands = np.sin(y * 9 + 0.5 * noise(rng, (h, w), 4))
  for cx, cy, size, turn in ((0.52, 0.3, 0.2, 1), (0.83, 0.42, 0.13, -1), (0.12, 0.5, 0.12, -1)):
    dx, dy = x - cx, y - cy
    weight = np.exp(-(dx**2 + dy**2) / size**2)
    vx, vy = vx * (1 - weight) - 4 * turn * weight * dy / size, vy + 4 * turn * weight * dx / size
    radius = np.hypot(dx, dy)
    spiral = np.sin(radius * 60 + turn * np.arctan2(dy, dx))
    bands = bands * (1 - weight) + spiral * weight
  blues = hexes("0b1b4d", "16357f", "1f56a8", "4d8fc4", "8fc3d0", "d8e3b4")
  sky = ramp(0.42 + 0.4 * bands + 0.08 * noise(rng, (h, w), 12), blues)
  stars = ((1.12, 0.16, 0.07), (0.2, 0.14, 0.04), (0.36, 0.1, 0.03), (0.85, 0.12, 0.035))
  stars += ((0.07, 0.28, 0.03), (1.08, 0.45, 0.035), (0.68, 0.12, 0.025), (0.34, 0.52, 0.03))
  for cx, cy, size in stars:
    dx, dy = x - cx, y - cy
    radius = np.hypot(dx, dy) / size
    near = smoothstep(radius, 2.4, 1.2)
    vx, vy = vx * (1 - near) - 6 * near * dy / size, vy * (1 - near) + 6 * near * dx / size
    glow = ramp(
      np.clip(radius / 2.4, 0, 1), hexes("fff3c0", "fbd348", "e5ae2c", "7fb0b5", "2f6bb0")
    )
    sky = mix(sky, glow, near * (0.75 + 0.25 * np.cos(radius * 7)))
  angle = np.arctan2(vy, vx)
  for level, (base, size, colors) in enumerate(
    (
      (0.72, 0.10, hexes("16306b", "2c5a8c", "4a86a0")),
      (0.82, 0.07, hexes("0f2a4a", "1f5b58", "5b8c55")),
      (0.93, 0.05, hexes("0a1a2c", "183f3a", "64803a")),
    )
  ):
    slope = 0.6 * size * np.cos(4 * x + 2.1 * level) * 4
    edge = base + size * np.sin(4 * x + 2.1 * level)
    hill = smoothstep(y, edge, edge + 0.006)
    sky = mix(sky, ramp(0.5 + 0.5 * np.sin((y - edge) * 70 + x * 6), colors), hill)
    angle = np.where(hill > 0.5, np.arctan(slope), angle)
  for _ in range(16):
    cx, cy, size = rng.uniform(0.3, 1.2), rng.uniform(0.84, 0.97), rng.uniform(0.005, 0.011)
    sky = mix(sky, hexes("ffd25a")[0], smoothstep(np.hypot(x - cx, y - cy), size * 1.5, size * 0.7))
  width = 0.075 * np.clip((y - 0.12) / 0.9, 0, 1) ** 0.6 * (1 + 0.35 * np.sin(y * 34) * 0.6)
  tree = smoothstep(np.abs(x - 0.2 - 0.03 * np.sin(y * 9)), width, width - 0.012)
  flames = ramp(0.5 + 0.5 * np.sin(x * 130 + y * 22), hexes("0a1510", "1c2f1c", "47421f", "10202c"))
  sky = mix(sky, flames, tree)
  angle = np.where(tree > 0.5, np.pi / 2 + 0.4 * np.sin(y * 34), angle)
  layers = ((22, 90, 1.6), (13, 70, 2.2), (8, 46, 2.0), (5, 30, 0.8))
  return canvas(rng, paint(rng, sky, angle, layers, 0.045))


def river_scene(rng: np.random.Generator, w: int, h: int) -> Array:
  """An evening at a river, the scene below the dots of `dots`."""
  x, y = grid(w, h)
  horizon = 0.55
  sky = ramp(np.clip(y / horizon, 0, 1), hexes("4a68b8", "8f8fd0", "e8a3b0", "f9c987", "fff0b0"))
  sun = np.hypot(x - 0.83, y - 0.45)
  sky = mix(sky, hexes("fffbe0")[0], smoothstep(sun, 0.075, 0.055))
  sky = sky + 0.25 * np.exp(-sun * 7)[..., None] * np.array([1, 0.6, 0.1])
  clouds = smoothstep(noise(rng, (h, w), 3) * smoothstep(y, 0.5, 0.1), 0.4, 1.2)
  sky = mix(sky, hexes("fde0d8")[0], 0.8 * clouds)
  far = 0.5 - 0.03 * noise(rng, (h, w), 3)[0]
  sky = mix(sky, hexes("6670b0")[0], smoothstep(y - far[None], -0.004, 0.004))
  image = sky
  below = image[np.clip((2 * horizon - y) * h, 0, h - 1).astype(int), np.arange(w)[None]]
  water = (
    below * np.array([0.72, 0.8, 0.95]) + 0.06 * np.sin(y * 120 + noise(rng, (h, w), 6))[..., None]
  )
  image = mix(image, water, smoothstep(y, horizon, horizon + 0.005))
  bank = 0.78 + 0.10 * np.sin(x * 2.2 + 0.6) + 0.015 * noise(rng, (h, w), 8)[0][None]
  grass = ramp(
    np.clip(0.5 + 0.3 * noise(rng, (h, w), 8) + x * 0.3 - 0.2, 0, 1),
    hexes("1d4f3a", "3f8a3f", "9cbb3c", "f0d84a"),
  )
  image = mix(image, grass, smoothstep(y - bank, -0.004, 0.004))
  for cx, cy, size in ((0.13, 0.3, 0.24), (0.33, 0.36, 0.16), (1.24, 0.4, 0.13)):
    trunk = (np.abs(x - cx - 0.02 * np.sin(y * 12)) < size * 0.07) & (y > cy) & (y < cy + 0.5)
    image = mix(image, hexes("43284a")[0], trunk.astype(float))
    crown = smoothstep(
      np.hypot(x - cx, (y - cy) * 1.15) / size + 0.13 * noise(rng, (h, w), 9), 1.0, 0.9
    )
    light = np.clip(0.5 + (x - cx - y + cy) / size * 0.4 + 0.15 * noise(rng, (h, w), 14), 0, 1)
    image = mix(image, ramp(light, hexes("17324f", "24603f", "5f9a3a", "d9c94a")), crown)
  return image


def dots(rng: np.random.Generator, w: int, h: int) -> Array:
  """Pointillism: pure dots of neighboring and opposite colors, in four sizes."""
  target = np.clip(river_scene(rng, w, h), 0, 1)
  image = to_image(ramp(np.full((h, w), 0.5), hexes("efe2c4", "efe2c4")))
  draw = ImageDraw.Draw(image)
  primaries = hexes("e8402c", "f7b52b", "2b6fc4", "2f9a52", "8a4fa8", "fff4d0", "f08a24")
  for spacing, radius in ((15, 9.0), (10, 6.2), (8, 4.6), (7, 3.4)):
    centers = [(x, y) for y in range(0, h, spacing) for x in range(0, w, spacing)]
    rng.shuffle(centers)
    for cx, cy in centers:
      x, y = cx + rng.normal(0, spacing / 3), cy + rng.normal(0, spacing / 3)
      color = target[min(max(int(y), 0), h - 1), min(max(int(x), 0), w - 1)]
      gray = color.mean()
      color = gray + (color - gray) * 1.35 + 0.07 * rng.standard_normal(3)
      if rng.random() < 0.22:
        near = primaries[np.argsort(((primaries - color) ** 2).sum(1))[int(rng.integers(0, 3))]]
        color = 0.35 * color + 0.65 * near
      elif rng.random() < 0.05:
        color = 0.3 * color + 0.7 * (2 * gray - color)
      r = radius * rng.uniform(0.7, 1.15)
      squeeze = rng.uniform(0.8, 1.0)
      draw.ellipse((x - r, y - r * squeeze, x + r, y + r * squeeze), fill=code(color))
  return canvas(rng, to_array(image), 0.04)


def town_tone(rng: np.random.Generator, w: int, h: int) -> tuple[Array, Array]:
  """Brightness and contour lines of a hill town, the scene below the lines of `ink`."""
  x, y = grid(w, h)
  tone = 0.95 - 0.25 * smoothstep(noise(rng, (h, w), 2.5), 0.1, 1.2) * smoothstep(y, 0.5, 0.1)
  lines = Image.new("L", (w, h), 0)
  draw = ImageDraw.Draw(lines)

  def box(left: float, top: float, right: float, bottom: float, value: float) -> None:
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    tone[inside] = value
    draw.rectangle((left * h, top * h, right * h, bottom * h), outline=255, width=3, fill=0)

  def triangle(corners: Sequence[tuple[float, float]], value: float) -> None:
    mask = Image.new("L", (w, h), 0)
    ImageDraw.Draw(mask).polygon([(a * h, b * h) for a, b in corners], fill=255)
    tone[np.asarray(mask) > 0] = value
    scaled = [(a * h, b * h) for a, b in corners]
    draw.polygon(scaled, fill=0)
    draw.line([*scaled, scaled[0]], fill=255, width=3)

  for row, base in enumerate((0.52, 0.66, 0.82)):
    left = -0.05
    while left < w / h:
      wide, tall = rng.uniform(0.09, 0.16), rng.uniform(0.12, 0.26) * (0.8 + 0.25 * row)
      top = base - tall + 0.08 * np.sin(4 * left)
      tower = rng.random() < 0.25
      if tower:
        wide, top = wide * 0.55, top - 0.16
      split = left + wide * rng.uniform(0.5, 0.7)
      box(left, top, split, base + 0.2, 0.82 - 0.08 * rng.random())
      box(split, top, left + wide, base + 0.2, 0.3 + 0.1 * rng.random())
      peak = top - (0.13 if tower else rng.uniform(0.05, 0.08))
      middle = left + wide * 0.45
      triangle(((left - 0.01, top), (middle, peak), (split, top)), 0.55)
      triangle(((split, top), (middle, peak), (left + wide + 0.01, top)), 0.18)
      for wy in np.arange(top + 0.03, base + 0.15, 0.055):
        for wx in np.arange(left + 0.015, split - 0.02, 0.03):
          box(wx, wy, wx + 0.013, wy + 0.025, 0.08)
      left += wide + rng.uniform(-0.01, 0.02)
  hill = 0.86 + 0.04 * np.sin(5 * x) + 0.01 * noise(rng, (h, w), 8)[0][None]
  bushes = 0.45 + 0.28 * noise(rng, (h, w), 9)
  tone = np.where(y > hill, np.clip(bushes, 0.05, 0.95), tone)
  contour = np.where(y > hill, 0, to_array(lines))
  return np.clip(tone, 0, 1), np.maximum(contour, smoothstep(np.abs(y - hill), 0.004, 0.002))


def ink(rng: np.random.Generator, w: int, h: int) -> Array:
  """Cross-hatching in sepia ink on old paper."""
  tone, contour = town_tone(rng, w, h)
  tone = blur(tone, 2) + 0.05 * noise(rng, (h, w), 10)
  sheet = Image.new("L", (w, h), 0)
  draw = ImageDraw.Draw(sheet)
  passes = ((0.88, 0.75, 13), (0.68, -0.7, 11), (0.5, 0.1, 9), (0.36, 1.45, 8), (0.2, 0.75, 5))
  for threshold, angle, spacing in passes:
    along, across = (
      np.array([np.cos(angle), np.sin(angle)]),
      np.array([-np.sin(angle), np.cos(angle)]),
    )
    reach = int(np.hypot(w, h))
    for offset in np.arange(-reach, reach, spacing):
      place = -reach + rng.uniform(0, 40)
      while place < reach:
        length = rng.uniform(25, 60)
        start = np.array([w / 2, h / 2]) + across * (offset + rng.normal(0, 1.1)) + along * place
        stop = start + along * length + across * rng.normal(0, 2.0)
        steps = [start + (stop - start) * t for t in np.linspace(0, 1, 9)]
        for a, b in zip(steps[:-1], steps[1:], strict=True):
          px, py = int(a[0]), int(a[1])
          if 0 <= px < w and 0 <= py < h and tone[py, px] < threshold:
            draw.line((*a, *b), fill=int(rng.integers(150, 255)), width=int(rng.choice((2, 2, 3))))
        place += length + rng.uniform(-4, 8)
  lines = np.maximum(to_array(sheet) * 0.85, contour * (0.75 + 0.2 * noise(rng, (h, w), 20)))
  stain = 0.5 + 0.14 * noise(rng, (h, w), 2) + 0.05 * noise(rng, (h, w), 60, 2)
  paper = ramp(np.clip(stain, 0, 1), hexes("cdb080", "e6d2a6", "f4e8c8"))
  return mix(paper, hexes("2a1a12")[0], np.clip(blur(lines, 0.7), 0, 1))


def crest(base: float, size: float, lean: float, shift: float, period: float, end: float) -> Array:
  """Returns the outline [points, 2] of a row of waves that lean over to the right."""
  t = np.arange(-0.5 * period, end + period, 0.004)
  peak = ((1 + np.cos(2 * np.pi * (t + shift) / period)) / 2) ** 2.6
  peak *= 0.72 + 0.28 * np.sin(7.3 * (t + shift))
  return np.stack([t + lean * size * peak**1.6, base - size * peak], -1)


def woodblock(rng: np.random.Generator, w: int, h: int) -> Array:
  """A color woodcut: striped waves with foam in front of a mountain."""
  x, y = grid(w, h)
  sky = ramp(np.clip(y * 1.5, 0, 1), hexes("8a9a9c", "d9cfae", "f0dfb8", "f3d3a8"))
  image = to_image(
    mix(sky, hexes("c8402e")[0], smoothstep(np.hypot(x - 0.28, y - 0.23), 0.105, 0.1))
  )
  draw = ImageDraw.Draw(image)
  navy, foam = code(hexes("14274e")[0]), code(hexes("f5ecd6")[0])

  def polygon(points: Array, fill: tuple[int, ...], outline: int = 5) -> None:
    scaled = [(float(a * h), float(b * h)) for a, b in points]
    draw.polygon(scaled, fill=fill)
    draw.line([*scaled, scaled[0]], fill=navy, width=outline, joint="curve")

  side = np.linspace(-1, 1, 41)
  slope = 0.30 + 0.36 * np.abs(side) ** 0.75
  polygon(np.stack([0.86 + 0.42 * side, slope], -1), code(hexes("5c7891")[0]))
  snow = np.abs(side) < 0.34
  teeth = np.stack([0.86 + 0.42 * side[snow], slope[snow]], -1)
  lower = teeth[::-1] * [0.96, 1] + [0.034, 0.05]
  lower[::2, 1] += 0.05
  polygon(np.concatenate([teeth, lower]), foam, 3)
  for cy in (0.10, 0.15, 0.37, 0.42):
    for start in rng.uniform(-0.2, 1.1, 3):
      half = rng.uniform(0.1, 0.22)
      box = ((start - half) * h, (cy - 0.009) * h, (start + half) * h, (cy + 0.009) * h)
      draw.rounded_rectangle(
        box, 8, fill=code(hexes("f4e6c4")[0]), outline=code(hexes("a89878")[0]), width=2
      )
  rows = (
    (0.70, 0.20, 0.30, 0.25, 0.55),
    (0.80, 0.34, 0.55, 0.62, 0.85),
    (0.93, 0.30, 0.45, 0.2, 0.65),
    (1.08, 0.34, 0.5, 0.95, 0.8),
  )
  blues = hexes("7fa3b8", "2b5e92", "1b3f78", "a9c4c8", "14305f")
  for index, (base, size, lean, shift, period) in enumerate(rows):
    outline = crest(base, size, lean, shift, period, w / h)
    bottom = np.array([[w / h + 0.6, 1.2], [-0.6, 1.2]])
    polygon(np.concatenate([outline, bottom]), code(blues[index % 2]))
    for stripe in range(1, 9):
      part = crest(
        base + 0.022 * stripe,
        size * (1 - 0.1 * stripe),
        lean,
        shift + 0.012 * stripe,
        period,
        w / h,
      )
      color = code(blues[(2, 3, 1, 4, 3, 2, 0, 4)[stripe - 1]])
      polygon(np.concatenate([part, bottom]), color, 3)
    height = base - outline[:, 1]
    for px, py in outline[height > 0.45 * height.max()][::3]:
      for _ in range(3):
        r = rng.uniform(0.005, 0.02)
        cx, cy = px + rng.normal(0.008, 0.014), py + rng.normal(0.004, 0.015)
        box = ((cx - r) * h, (cy - r) * h, (cx + r) * h, (cy + r) * h)
        draw.ellipse(box, fill=foam, outline=navy, width=3)
    for px, py in outline[height > 0.6 * height.max()][::4]:
      cx, cy, r = (
        px + rng.uniform(-0.02, 0.12),
        py - rng.uniform(0, 0.09),
        rng.uniform(0.002, 0.006),
      )
      draw.ellipse(
        ((cx - r) * h, (cy - r) * h, (cx + r) * h, (cy + r) * h), fill=foam, outline=navy, width=1
      )
  rgb = to_array(image)
  grain = np.sin((y * 70 + 1.5 * noise(rng, (h, w), 1.5, 2) + 0.15 * x) * 4)
  rgb = rgb * (1 + 0.035 * grain[..., None]) + 0.035 * noise(rng, (h, w), 90, 2)[..., None]
  worn = smoothstep(noise(rng, (h, w), 30, 3), 1.4, 2.4)
  return mix(rgb, hexes("efdfbd")[0], 0.5 * worn)


def glass(rng: np.random.Generator, w: int, h: int) -> Array:
  """Stained glass: a rose of colored panes between dark leads."""
  x, y = grid(w, h)
  cx, cy = 0.5 * w / h, 0.5
  seeds, colors = [(cx, cy)], [hexes("ffd84a")[0]]
  palette = [
    hexes("f7a21b", "e8541e"),
    hexes("c3132a", "8e1038"),
    hexes("1d4fc0", "12307f"),
    hexes("f2c230", "e98a15"),
    hexes("137a4b", "0b5a66"),
    hexes("5a2a9c", "1f3fae"),
    hexes("1a6fc9", "2a9dc4"),
  ]
  for ring, count in enumerate((8, 12, 16, 24, 24, 32, 40)):
    for k in range(count):
      theta = 2 * np.pi * (k + 0.5 * (ring % 2)) / count + rng.normal(0, 0.012)
      radius = 0.085 * (ring + 1) + rng.normal(0, 0.004)
      seeds.append((cx + radius * np.cos(theta), cy + radius * np.sin(theta)))
      colors.append(palette[ring][k % 2] + 0.07 * rng.standard_normal(3))
  warp = 0.004
  wx, wy = x + warp * noise(rng, (h, w), 6), y + warp * noise(rng, (h, w), 6)
  nearest, first, second = np.zeros((h, w), int), np.full((h, w), 9.0), np.full((h, w), 9.0)
  for index, (sx, sy) in enumerate(seeds):
    distance = np.hypot(wx - sx, wy - sy)
    second = np.minimum(second, np.maximum(first, distance))
    nearest = np.where(distance < first, index, nearest)
    first = np.minimum(first, distance)
  rgb = np.clip(np.array(colors), 0.02, 1)[nearest]
  turn = rng.uniform(0, np.pi, len(seeds))[nearest]
  streak = np.sin(60 * (x * np.cos(turn) + y * np.sin(turn)) + 2.5 * noise(rng, (h, w), 8))
  rgb = rgb * (0.95 + 0.22 * streak + 0.16 * noise(rng, (h, w), 14))[..., None]
  edge = second - first
  rgb = rgb + 0.22 * smoothstep(first, 0.05, 0.0)[..., None] * (0.4 + rgb)
  rgb = rgb * (0.45 + 0.55 * smoothstep(edge, 0.006, 0.04))[..., None]
  seed_bubbles = smoothstep(noise(rng, (h, w), 70, 1), 2.0, 2.6)
  rgb = rgb + 0.25 * seed_bubbles[..., None]
  lead = smoothstep(edge + 0.0015 * noise(rng, (h, w), 20), 0.0105, 0.0075)
  for radius in (0.0855 * 2.5, 0.085 * 4.5, 0.085 * 6.5):
    ring_gap = np.abs(np.hypot(wx - cx, wy - cy) - radius)
    lead = np.maximum(lead, smoothstep(ring_gap, 0.0095, 0.007))
  metal = relief(np.full((h, w, 3), 0.13) * [0.95, 1.0, 1.08], blur(lead, 3) * 14, 0.8)
  return mix(rgb, metal + 0.02 * noise(rng, (h, w), 60, 2)[..., None], lead)


def wash(rng: np.random.Generator, w: int, h: int) -> Array:
  """Watercolor: transparent washes with dark rims, grain and backruns: a bunch of flowers."""
  x, y = grid(w, h)
  grain = noise(rng, (h, w), 110, 2)
  ripple, fine = noise(rng, (2 * h, 2 * w), 10), noise(rng, (2 * h, 2 * w), 60, 3)
  paper = np.ones((h, w, 3)) * hexes("fbf6ea")[0] * (1 + 0.012 * grain[..., None])

  def lay(inside: Array, color: Array, amount: float, rim: float = 0.5) -> None:
    """Multiplies the paper with a wash over `inside` > 0, in units of the picture's height."""
    nonlocal paper
    top, left = int(rng.integers(0, h)), int(rng.integers(0, w))
    window = np.s_[top : top + h, left : left + w]
    flow, detail = ripple[window], fine[window]
    shape = smoothstep(inside + 0.012 * flow + 0.004 * detail, -0.002, 0.004)
    border = shape * (1 - smoothstep(inside + 0.012 * flow + 0.004 * detail, 0.0, 0.02))
    pigment = (
      shape * amount * (0.75 + 0.35 * flow + 0.1 * detail + 0.14 * grain) + rim * border * amount
    )
    hue = np.clip(color + 0.05 * flow[..., None] * rng.standard_normal(3), 0.02, 1)
    room = 0.3 + 0.7 * paper.mean(-1)  # dark paint takes up less of the next wash
    paper = paper * np.exp(np.log(hue) * (room**2 * np.clip(pigment, 0, 1.6))[..., None])

  aspect = w / h
  backdrop = hexes("9fc6dc", "c9b7dc", "f2d3b0", "b8d8c0")
  for _ in range(9):
    cx, cy, size = rng.uniform(0, aspect), rng.uniform(0, 0.9), rng.uniform(0.12, 0.3)
    lay(size - np.hypot(x - cx, (y - cy) * 1.2), backdrop[int(rng.integers(0, 4))], 0.55, 0.25)
  greens = hexes("5f9a4c", "2f7a58", "9ab848", "3f6a6a")
  for _ in range(34):
    theta = rng.uniform(0, 2 * np.pi)
    cx, cy = aspect / 2 + 0.3 * np.cos(theta) * rng.uniform(0.5, 1.1), 0.5 + 0.3 * np.sin(theta)
    turn, long = theta + rng.normal(0, 0.5), rng.uniform(0.07, 0.15)
    u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
    v = -(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)
    lay(0.28 * long * (1 - (u / long) ** 2) - np.abs(v), greens[int(rng.integers(0, 4))], 0.75)
  reds = hexes("e0457b", "f0863c", "d8325a", "8a55b8", "f4b83a", "5577cc", "f08aa8")
  blooms = [
    (aspect / 2 + 0.33 * np.cos(a) * r, 0.48 + 0.36 * np.sin(a) * r, rng.uniform(0.07, 0.12))
    for a, r in zip(
      np.linspace(0, 11, 12), (0, 1, 0.9, 1, 0.8, 1, 0.9, 1, 0.6, 0.7, 0.5, 1.1), strict=True
    )
  ]
  for index, (cx, cy, size) in enumerate(blooms):
    color = reds[index % len(reds)]
    count = int(rng.integers(5, 8))
    for petal in range(count):
      theta = 2 * np.pi * petal / count + rng.normal(0, 0.15)
      px, py = cx + 0.6 * size * np.cos(theta), cy + 0.6 * size * np.sin(theta)
      u = (x - px) * np.cos(theta) + (y - py) * np.sin(theta)
      v = -(x - px) * np.sin(theta) + (y - py) * np.cos(theta)
      lay(
        size * 0.5 - np.hypot(u * 0.85, v * 1.15), color + 0.06 * rng.standard_normal(3), 0.6, 0.7
      )
    lay(size * 0.22 - np.hypot(x - cx, y - cy), hexes("7a3b1e", "e2a01c")[index % 2], 1.0, 0.4)
  for _ in range(70):
    cx, cy, size = rng.uniform(0, aspect), rng.uniform(0, 1), rng.exponential(0.004) + 0.0015
    color = np.concatenate([reds, greens])[int(rng.integers(0, 11))]
    inside = smoothstep(np.hypot(x - cx, y - cy), size + 0.002, size)
    paper = paper * np.exp(np.log(color) * 0.8 * inside[..., None])
  return relief(paper, grain * 0.12, 0.35)


def mosaic(rng: np.random.Generator, w: int, h: int) -> Array:
  """A mosaic of stone tiles laid in rows along the shapes: suns and waves of tiles."""
  aspect = w / h
  blues = hexes("123a63", "1f5f8f", "2f86a6", "6fb3b8", "d8d6b8")
  centers = [
    (0.5 * aspect, 0.44, 0.33, hexes("f5d76a", "f0b429", "d9782a", "b5402c", "7d2430", "efe3c0")),
    (0.12, 0.86, 0.24, hexes("efe3c0", "4f9a8a", "1f6f6a", "c9a24a", "174a4f")),
    (aspect - 0.1, 0.88, 0.27, hexes("f0c8a0", "d96a4a", "8c2f3c", "efe3c0", "5a2340")),
    (0.08, 0.1, 0.2, hexes("efe3c0", "8fb4c9", "39568c", "c9a24a")),
    (aspect - 0.08, 0.12, 0.22, hexes("f2d9a0", "9ab04a", "4f7a3a", "2a4f3a")),
    (0.5 * aspect, -2.2, 9.0, blues),
  ]
  image = to_image(
    np.clip(0.34 + 0.05 * noise(rng, (h, w), 60, 3), 0, 1)[..., None] * np.array([1, 0.95, 0.86])
  )
  depth = Image.new("L", (w, h), 0)
  draw, draw_depth = ImageDraw.Draw(image), ImageDraw.Draw(depth)
  taken = np.zeros((h, w), bool)
  for tile in (0.0235, 0.0125):
    for cx, cy, reach, colors in centers:
      for row in range(int(min(reach, 3.6) / tile) + 1):
        radius = (row + 0.5) * tile
        for theta in np.arange(0, 2 * np.pi, tile * 1.02 / radius) + rng.uniform(0, 1):
          px, py = cx + radius * np.cos(theta), cy + radius * np.sin(theta)
          inside_other = reach > 1 and any(
            np.hypot(px - a, py - b) < c for a, b, c, _ in centers[:-1]
          )
          if inside_other or not (0 <= px < aspect and 0 <= py < 1):
            continue
          if reach > 1:
            pattern = 0.5 + 0.5 * np.sin(radius * 42 + 2.2 * np.sin(px * 9))
          else:
            petals = 0.06 * np.sin(theta * 12) * (radius / reach)
            pattern = radius / reach + petals
          base = ramp(np.array(np.clip(np.round(pattern * 6) / 6, 0, 1)), colors)
          half = tile * rng.uniform(0.40, 0.46)
          turn = theta + rng.normal(0, 0.07)
          corners = []
          for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            a, b = half * (a + rng.normal(0, 0.08)), half * (b + rng.normal(0, 0.08))
            corners.append(
              (px + a * np.cos(turn) - b * np.sin(turn), py + a * np.sin(turn) + b * np.cos(turn))
            )
          spots = [(px, py), *corners]
          ys = np.clip([int(q * h) for _, q in spots], 0, h - 1)
          xs = np.clip([int(p * w / aspect) for p, _ in spots], 0, w - 1)
          if taken[ys, xs].any():
            continue
          scaled = [(p * h, q * h) for p, q in corners]
          color = base * rng.uniform(0.82, 1.12) + 0.035 * rng.standard_normal(3)
          draw.polygon(scaled, fill=code(color))
          draw_depth.polygon(scaled, fill=int(rng.integers(170, 255)))
          box = np.s_[
            max(int((py - half) * h), 0) : int((py + half) * h) + 1,
            max(int((px - half) * h), 0) : int((px + half) * h) + 1,
          ]
          taken[box] = True
  rgb = to_array(image) * (1 + 0.07 * noise(rng, (h, w), 40, 3))[..., None]
  return relief(rgb, blur(to_array(depth), 1.6) * 3.0, 0.35)


def facets(rng: np.random.Generator, w: int, h: int) -> Array:
  """Cubist planes: facets shaded from edge to edge, cut by arcs, in brushed oil."""
  x, y = grid(w, h)
  aspect = w / h
  region = np.zeros((h, w), np.int64)
  angle = np.zeros((h, w))
  shade = 0.35 * noise(rng, (h, w), 2)
  outline = np.zeros((h, w))
  for index in range(15):
    theta = rng.choice((0.35, 1.1, 1.57, 2.2, 2.8)) + rng.normal(0, 0.12)
    px, py = aspect / 2 + rng.normal(0, 0.24), 0.5 + rng.normal(0, 0.26)
    side = (x - px) * np.cos(theta) + (y - py) * np.sin(theta)
    part = noise(rng, (h, w), 1.2, 1) > -0.5
    region = region * 2 % 9973 + (side > 0)
    shade = shade + 0.55 * np.exp(-np.abs(side) / 0.09) * np.sign(side)
    outline = np.maximum(outline, smoothstep(np.abs(side), 0.0042, 0.002) * part)
    angle = angle + (side > 0) * theta * (index % 3)
  for cx, cy, radius in (
    (0.42, 0.36, 0.17),
    (0.42, 0.66, 0.22),
    (0.55, 0.5, 0.06),
    (0.66, 0.2, 0.13),
  ):
    side = radius - np.hypot((x - cx * aspect / 0.8) * 1.05, y - cy)
    part = noise(rng, (h, w), 1.5, 1) > -0.6
    region = region + 4099 * (side > 0)
    shade = shade + 0.7 * np.exp(-np.abs(side) / 0.05) * np.sign(side)
    outline = np.maximum(outline, smoothstep(np.abs(side), 0.005, 0.0028) * part)
  palette = hexes(
    "b98a4a",
    "8a6a44",
    "d9bd8a",
    "5c6470",
    "8f98a0",
    "3a3f4a",
    "c7693a",
    "efe0bd",
    "47616b",
    "a03c2c",
    "6f5a3c",
    "2f4a58",
  )
  scramble = np.random.default_rng(5).permutation(20011)
  rgb = palette[scramble[region % 20011] % len(palette)]
  rgb = rgb * (0.85 + 0.34 * np.tanh(shade))[..., None]
  for k in range(6):
    px = aspect * 0.52 + 0.012 * k
    string = smoothstep(np.abs(x - px - 0.12 * (y - 0.5)), 0.0022, 0.001) * (y > 0.15) * (y < 0.8)
    rgb = mix(rgb, hexes("efe0bd")[0], 0.8 * string)
  rgb = mix(rgb, hexes("1a1614")[0], 0.85 * outline)
  layers = ((16, 50, 1.5), (9, 34, 2.2), (5, 22, 2.4))
  painted = paint(rng, np.clip(rgb, 0, 1), angle, layers, 0.035, 1.3)
  return canvas(rng, mix(painted, hexes("1a1614")[0], 0.7 * outline), 0.05)


PICTURES: dict[str, tuple[Callable[[np.random.Generator, int, int], Array], int, int]] = {
  "night": (night, 500, 400),
  "dots": (dots, 520, 400),
  "ink": (ink, 400, 480),
  "woodblock": (woodblock, 520, 400),
  "glass": (glass, 440, 440),
  "wash": (wash, 400, 440),
  "mosaic": (mosaic, 500, 400),
  "facets": (facets, 400, 500),
}


def main(names: Sequence[str]) -> None:
  """Draws the pictures called `names`, or all of them."""
  FOLDER.mkdir(exist_ok=True)
  for seed, (name, (draw, width, height)) in enumerate(PICTURES.items()):
    if not names or name in names:
      rgb = draw(np.random.default_rng(seed), 2 * width, 2 * height)
      small = to_image(rgb).resize((width, height), Image.Resampling.LANCZOS)
      small.save(FOLDER / f"{name}.jpg", quality=90)


if __name__ == "__main__":
  main(sys.argv[1:])
