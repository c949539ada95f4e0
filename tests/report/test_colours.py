"""Colours are told apart by everybody, and letters can be read."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from spnas_jax.report.page_style import CSS
from spnas_jax.report.plot_style import DARK, LIGHT

# Machado, Oliveira, Fernandes 2009: linear RGB without one kind of cone.
SEEN = {
  'all cones': np.eye(3),
  'protanopia': [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  'deuteranopia': [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
  ],
  'tritanopia': [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
  ],
}
# Linear RGB to CIE XYZ over its white.
XYZ = np.array(
  [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
  ]
) / [[0.95047], [1.0], [1.08883]]


def linear(colour):
  rgb = np.array(to_rgb(colour))
  return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
  """CIE L*a*b* of linear RGB."""
  t = XYZ @ np.clip(rgb, 0, 1)
  f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
  return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one, other):
  """As WCAG defines it, 1 to 21."""
  light = sorted(
    float(linear(c) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (one, other)
  )
  return light[1] / light[0]


@pytest.mark.parametrize('eyes', SEEN)
@pytest.mark.parametrize('colours', [LIGHT, DARK], ids=['light', 'dark'])
def test_colours_differ_for_every_eye(colours, eyes):
  """A difference of 2 is just seen; small marks need several times that."""
  names = ('blue', 'orange', 'green', 'purple', 'muted')
  seen = {
    n: lab(np.array(SEEN[eyes]) @ linear(getattr(colours, n))) for n in names
  }
  for one, other in itertools.combinations(names, 2):
    assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)


@pytest.mark.parametrize('colours', [LIGHT, DARK], ids=['light', 'dark'])
def test_letters_of_pictures_stand_out(colours):
  """4.5, what WCAG AA asks of small text."""
  for name in ('ink', 'muted', 'blue', 'orange', 'green', 'purple'):
    ratio = contrast(getattr(colours, name), colours.surface)
    assert ratio >= 4.5, (name, ratio)


def test_letters_of_the_page_stand_out():
  """In the light theme and in the dark one, on the page and on its cards."""
  light, dark = CSS.split('@media screen and (prefers-color-scheme: dark)')
  for block in (light, dark):
    pairs = (
      p.split(':') for p in block.split('}')[0].split('{')[-1].split(';')
    )
    names = {p[0].strip(): p[1].strip() for p in pairs if len(p) == 2}
    for name in ('--ink', '--muted', '--good', '--bad', '--link'):
      for behind in ('--page', '--card'):
        assert contrast(names[name], names[behind]) >= 4.5, (name, behind)
