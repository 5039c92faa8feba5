"""HDR to SDR: PQ and HLG with BT.2020's primaries to 8-bit BT.709.

The models were trained on ordinary pictures, so frames are brought to what these look like: diffuse
white, 203 cd/m2 (ITU-R BT.2408), becomes nearly white, and what is brighter is compressed.
"""

import functools

import numpy as np

# FFmpeg's AVColorTransferCharacteristic.
_NAMES = {16: "PQ", 18: "HLG"}
_PQ = 16
# cd/m2.
_DIFFUSE_WHITE = 203.0
_PQ_PEAK = 10000.0
_HLG_PEAK = 1000.0
# Linear BT.2020 to linear BT.709 (ITU-R BT.2087).
_TO_BT709 = np.array(
  [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
# Diffuse white becomes this much of SDR's white, which leaves a third for highlights.
_WHITE_LEVEL = 0.7


def is_hdr(transfer: int) -> bool:
  """Whether a transfer characteristic, in FFmpeg's numbers, is PQ or HLG."""
  return transfer in _NAMES


def name(transfer: int) -> str:
  """The name of an HDR transfer characteristic."""
  return _NAMES[transfer]


def to_sdr(rgb: np.ndarray, transfer: int) -> np.ndarray:
  """Converts BT.2020 RGB `[h, w, 3]`, uint16, with the transfer PQ or HLG to BT.709, uint8."""
  light = _linear(transfer)[rgb]
  if transfer != _PQ:  # the display's gamma of 1.2, which is part of HLG
    luma = light @ _LUMA
    light = light * np.maximum(luma, 1e-6)[..., None] ** 0.2 * (_HLG_PEAK / _DIFFUSE_WHITE)
  light = np.maximum(light @ _TO_BT709.T, 0)
  # One factor for the three channels, so that colors keep their hue.
  peak = light.max(-1, keepdims=True)
  light = light * (_compress(peak) / np.maximum(peak, 1e-6))
  encoded = np.where(light < 0.018, 4.5 * light, 1.099 * np.maximum(light, 1e-6) ** 0.45 - 0.099)
  return np.round(np.clip(encoded, 0, 1) * 255).astype(np.uint8)


def _compress(light: np.ndarray) -> np.ndarray:
  """Maps light, 1 for diffuse white, to [0, 1): linear up to a half, then ever slower."""
  knee = 0.5
  slope = _WHITE_LEVEL
  room = 1 - slope * knee
  over = np.maximum(light - knee, 0) * slope
  return slope * np.minimum(light, knee) + room * over / (over + room)


@functools.cache
def _linear(transfer: int) -> np.ndarray:
  """The light of each 16-bit value: of PQ with diffuse white as 1, of HLG the scene's in [0, 1]."""
  signal = np.linspace(0, 1, 2**16)
  if transfer == _PQ:  # SMPTE ST 2084
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = signal ** (1 / m2)
    light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * (_PQ_PEAK / _DIFFUSE_WHITE)
  else:  # ARIB STD-B67
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
  return light.astype(np.float32)
