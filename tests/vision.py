"""How far apart two colours are to a colour-blind reader."""

import itertools

import numpy as np
from matplotlib import colors as mcolors

# What a reader without the cones for red, green or blue sees of linear RGB: Machado, Oliveira and
# Fernandes, A physiologically-based model for simulation of color vision deficiency, 2009, severity 1.
DEFICIENCIES = {
    "protanopia": "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216 -0.003882 -0.048116 1.051998",
    "deuteranopia": "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413 -0.011820 0.042940 0.968881",
    "tritanopia": "1.255528 -0.076749 -0.178779 -0.078411 0.930809 0.147602 0.004733 0.691367 0.303900",
}
TO_XYZ = "0.4124564 0.3575761 0.1804375 0.2126729 0.7151522 0.0721750 0.0193339 0.1191920 0.9503041"


def smallest_distance(colors, deficiency=None):
    """Between two of the colors, in CIE L*a*b*, as that reader sees them."""
    seen = np.eye(3) if deficiency is None else matrix(DEFICIENCIES[deficiency])
    shades = [lab(seen @ linear_rgb(color)) for color in colors]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(shades, 2))


def matrix(numbers):
    return np.array(numbers.split(), float).reshape(3, 3)


def lab(linear):
    """CIE L*a*b* of linear sRGB, white D65."""
    xyz = matrix(TO_XYZ) @ np.clip(linear, 0, 1) / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def linear_rgb(color):
    srgb = np.array(mcolors.to_rgb(color))
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
