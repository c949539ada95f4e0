"""Depthwise convolution whose form depends on the platform it is lowered for.

TPU and GPU have fast kernels for a convolution with one group per channel, so
there it is `lax.conv_general_dilated` and whatever JAX differentiates that to.
On an H200 (bfloat16, batch 128) the depthwise layers of the ImageNet network
take 2.7 ms forward, 3.1 the input gradient and 3.1 the kernel gradient; by the
sums below 6.8 and 7.1, by k * k reductions 15.6. For a TPU v2 the compiler
estimates the sums at 2.7 to 6 times the cycles of the primitive.

XLA:CPU has none: it treats every channel as a convolution of its own, and the
gradients of a training step take tens of times longer than the arithmetic in
them. There the forward pass and both gradients are sums of products of shifted
slices, which XLA fuses into single loops over contiguous channels:

  output           y[p, q]  = Σ_ij x[s p + i, s q + j] w[i, j]
  input gradient   the same sum over the output's gradient, once per position
                   within a stride, so that no zeros are multiplied
  kernel gradient  dw[i, j] = Σ_pq x[s p + i, s q + j] dy[p, q], the same sum
                   again: a k x k image filtered by a "kernel" as large as the
                   map, which is why it is taken tile by tile

All of them accumulate in float32, whatever the inputs are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from spnas_jax.networks.block import KERNELS, STRIDES

_PADDINGS = ('same', 'symmetric')
_IMPLEMENTATIONS = ('auto', 'primitive')
_DTYPES = ('float32', 'bfloat16')

# The kernel gradient adds up to 8 x 8 positions in one fused loop. More of them
# means fewer reads and writes of the accumulator and more code to compile; with
# fewer than 16, XLA recomputes the tile's offsets for every element instead of
# copying the tile once, which costs a factor of 3 to 5. All usual map sizes
# (powers of two and 7 times them) are whole multiples of the tiles this gives.
_MAX_TILE = 8
# Examples summed side by side, for two threads or more to share. Larger groups
# only make the accumulator outgrow the cache.
_MAX_GROUP = 4


class _Axis(NamedTuple):
  """One spatial axis of the convolution: what a window does along it."""

  size: int
  kernel_size: int
  stride: int
  before: int  # zeros in front of the input
  after: int  # and after it

  @property
  def output_size(self) -> int:
    padded = self.before + self.size + self.after
    return (padded - self.kernel_size) // self.stride + 1


class _Geometry(NamedTuple):
  """Everything static about one convolution; hashable."""

  height: _Axis
  width: _Axis


def depthwise_conv(
  x: Array,
  kernel: Array,
  *,
  stride: int = 1,
  padding: str = 'same',
  implementation: str = 'auto',
) -> Array:
  """Convolves every channel with its own k x k kernel.

  The platform is known when the surrounding computation is lowered, not when it
  is traced, so one traced function can be compiled for a CPU and for a TPU that
  is not there.

  Args:
    x: [batch, height, width, channels], float32 or bfloat16.
    kernel: [k, k, 1, channels], of `x`'s type; k is 1, 3, 5 or 7.
    stride: 1 or 2, the same for height and width.
    padding: 'same' pads as TensorFlow does, to ceil(size / stride) outputs and
      with the odd zero at the end; 'symmetric' pads k // 2 zeros on both sides,
      as PyTorch networks do.
    implementation: 'auto' takes the fastest form of the platform (reverse-mode
      differentiation only); 'primitive' takes `lax.conv_general_dilated`
      everywhere. The TFLite converter recognises a DEPTHWISE_CONV_2D only in
      the latter, also when it is lowered for a CPU.

  Returns:
    [batch, output height, output width, channels] of `x`'s type, summed in
    float32.

  Raises:
    ValueError: if an argument has a shape, type or value not listed above.
  """
  _check(x, kernel, stride, padding, implementation)
  geometry = _Geometry(
    *(
      _make_axis(size, kernel.shape[0], stride, padding)
      for size in x.shape[1:3]
    )
  )
  if implementation == 'primitive':
    return _primitive(x, kernel, geometry)
  return _platform_conv(x, kernel, geometry)


def _check(
  x: Array, kernel: Array, stride: int, padding: str, implementation: str
) -> None:
  if x.ndim != 4 or 0 in x.shape:
    raise ValueError(
      f'x has shape {x.shape}; allowed: [batch, height, width, channels], none '
      'of them 0'
    )
  if kernel.shape not in [(k, k, 1, x.shape[-1]) for k in KERNELS]:
    raise ValueError(
      f'kernel has shape {kernel.shape}; allowed: [k, k, 1, {x.shape[-1]}], '
      f'k in {KERNELS}, the last being the channels of x'
    )
  for name, dtype in (('x', x.dtype), ('kernel', kernel.dtype)):
    if dtype not in _DTYPES:
      raise ValueError(f'{name} has dtype {dtype}; allowed: {_DTYPES}')
  if kernel.dtype != x.dtype:
    raise ValueError(
      f'kernel has dtype {kernel.dtype}; allowed: {x.dtype}, the dtype of x'
    )
  for name, value, allowed in (
    ('stride', stride, STRIDES),
    ('padding', padding, _PADDINGS),
    ('implementation', implementation, _IMPLEMENTATIONS),
  ):
    if value not in allowed:
      raise ValueError(f'{name} is {value!r}; allowed: {allowed}')


def _make_axis(size: int, kernel_size: int, stride: int, padding: str) -> _Axis:
  if padding == 'symmetric':
    before = after = kernel_size // 2
  else:
    output_size = -(-size // stride)
    total = max((output_size - 1) * stride + kernel_size - size, 0)
    before = total // 2
    after = total - before
  return _Axis(size, kernel_size, stride, before, after)


def _primitive(x: Array, kernel: Array, geometry: _Geometry) -> Array:
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=[axis.stride for axis in geometry],
    padding=[(axis.before, axis.after) for axis in geometry],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1],
  )


def _primitive_gradients(
  x: Array, kernel: Array, dy: Array, geometry: _Geometry
) -> tuple[Array, Array]:
  forward = functools.partial(_primitive, geometry=geometry)
  # XLA:TPU would otherwise fuse what makes dy into its readers: the compiler's
  # estimate of a search step on v2:2x2 falls from 0.257 to 0.230 s.
  dy = lax.optimization_barrier(dy)
  dx, dw = jax.vjp(forward, x, kernel)[1](dy)
  return dx, dw


def _sum(terms: Iterable[Array]) -> Array:
  return functools.reduce(lax.add, terms)


def _pad(x: Array, height: tuple[int, int], width: tuple[int, int]) -> Array:
  """Zeros around the map; a negative number takes rows or columns away."""
  zero = jnp.zeros((), x.dtype)
  return lax.pad(x, zero, [(0, 0, 0), (*height, 0), (*width, 0), (0, 0, 0)])


def _shifted(x: Array, kernel: Array, geometry: _Geometry) -> Array:
  """The forward pass: k * k strided slices, each times one kernel element.

  Each kernel row is summed by itself: one chain of k * k additions would wait
  for the latency of each.
  """
  batch, _, _, channels = x.shape
  height, width = geometry
  padded = _pad(
    x.astype(jnp.float32),
    (height.before, height.after),
    (width.before, width.after),
  )
  kernel = kernel.astype(jnp.float32)
  last_row = (height.output_size - 1) * height.stride
  last_column = (width.output_size - 1) * width.stride

  def tap(i: int, j: int) -> Array:
    window = lax.slice(
      padded,
      (0, i, j, 0),
      (batch, i + last_row + 1, j + last_column + 1, channels),
      (1, height.stride, width.stride, 1),
    )
    return window * lax.slice(kernel, (i, j, 0, 0), (i + 1, j + 1, 1, channels))

  rows = range(height.kernel_size)
  columns = range(width.kernel_size)
  y = _sum(_sum(tap(i, j) for j in columns) for i in rows)
  return y.astype(x.dtype)


class _Phases(NamedTuple):
  """Which output positions an input position at s p + r, r < s, reaches.

  It is p + `last` - a for a = 0 .. `taps` - 1, through the kernel element that
  lies at [a, r] once `kernel_pads` zeros are put around the kernel's s * `taps`
  elements and these are reshaped to [taps, s]. `gradient_pads` makes room for
  positions outside the output.
  """

  taps: int
  steps: int  # values of p
  kernel_pads: tuple[int, int]
  gradient_pads: tuple[int, int]


def _make_phases(axis: _Axis) -> _Phases:
  # Output o reads input h = s o + i - before through element i, so h = s p + r
  # meets it at i = r + before - s (o - p). The ends of 0 <= i < k bound o - p.
  stride = axis.stride
  first = -((axis.kernel_size - 1 - axis.before) // stride)
  last = (stride - 1 + axis.before) // stride
  taps = last - first + 1
  steps = -(-axis.size // stride)
  front = stride * last - axis.before
  return _Phases(
    taps,
    steps,
    kernel_pads=(front, stride * taps - axis.kernel_size - front),
    gradient_pads=(-first, steps + last - axis.output_size),
  )


def _input_gradient(kernel: Array, dy: Array, geometry: _Geometry) -> Array:
  """The gradient of `x`, which has `kernel`'s dtype, [batch, H, W, channels].

  A convolution of the output's gradient with s - 1 zeros between its elements
  would multiply by zero 3 times out of 4 at stride 2. Here the s * s positions
  within a stride are two more axes of the result, each with its own share of
  the kernel: 9 products instead of 25 for k = 5. At stride 1 the two axes have
  length 1 and what remains is the forward pass with a reversed kernel.
  """
  batch, _, _, channels = dy.shape
  height, width = geometry
  rows, columns = _make_phases(height), _make_phases(width)
  zero = jnp.zeros((), jnp.float32)
  shares = lax.pad(
    kernel.astype(jnp.float32),
    zero,
    [(*rows.kernel_pads, 0), (*columns.kernel_pads, 0), (0, 0, 0), (0, 0, 0)],
  ).reshape(rows.taps, height.stride, columns.taps, width.stride, channels)
  padded = _pad(
    dy.astype(jnp.float32), rows.gradient_pads, columns.gradient_pads
  )

  def tap(i: int, j: int) -> Array:
    row, column = rows.taps - 1 - i, columns.taps - 1 - j
    window = lax.slice(
      padded,
      (0, row, column, 0),
      (batch, row + rows.steps, column + columns.steps, channels),
    )
    share = shares[i, :, j]
    return window[:, :, None, :, None] * share[None, None, :, None]

  dx = _sum(
    _sum(tap(i, j) for j in range(columns.taps)) for i in range(rows.taps)
  ).reshape(batch, rows.steps * height.stride, columns.steps * width.stride, -1)
  # An odd size at stride 2 has one position too many.
  dx = lax.slice(dx, (0, 0, 0, 0), (batch, height.size, width.size, channels))
  return dx.astype(kernel.dtype)


def _kernel_gradient(x: Array, dy: Array, geometry: _Geometry) -> Array:
  """The gradient of the kernel, which has `x`'s dtype, [k, k, 1, channels].

  The obvious form, k * k reductions over batch and map, walks memory once per
  kernel element and sums one channel at a time. Here the kernel's elements are
  the image: a loop over groups of examples and tiles of the map adds all of a
  tile's positions into an accumulator [group, k, k, channels] that stays in the
  cache. One function, because its loop body closes over all of its geometry.
  """
  batch, _, _, channels = x.shape
  height, width = geometry
  tile_rows, num_rows = _split(height.output_size)
  tile_columns, num_columns = _split(width.output_size)
  num_tiles = num_rows * num_columns
  group = math.gcd(batch, _MAX_GROUP)
  if group == batch and num_tiles == 1:
    # XLA unrolls a loop of one step and fuses the tile into the sum over the
    # group, which is the slow form again; with single examples there is no sum.
    group = 1

  # Tiles may stick out: zeros there add nothing.
  gradient = _pad(
    dy.astype(jnp.float32),
    (0, num_rows * tile_rows - height.output_size),
    (0, num_columns * tile_columns - width.output_size),
  )
  padded = _pad(
    x.astype(jnp.float32),
    _pads_for(height, num_rows * tile_rows),
    _pads_for(width, num_columns * tile_columns),
  )
  accumulator_shape = (group, height.kernel_size, width.kernel_size, channels)

  def add_tile(step: Array, accumulator: Array) -> Array:
    example = lax.div(step, num_tiles) * group
    row = lax.rem(lax.div(step, num_columns), num_rows) * tile_rows
    column = lax.rem(step, num_columns) * tile_columns
    inputs = lax.dynamic_slice(
      padded,
      (example, row * height.stride, column * width.stride, 0),
      (
        group,
        (tile_rows - 1) * height.stride + height.kernel_size,
        (tile_columns - 1) * width.stride + width.kernel_size,
        channels,
      ),
    )
    gradients = lax.dynamic_slice(
      gradient,
      (example, row, column, 0),
      (group, tile_rows, tile_columns, channels),
    )

    def position(p: int, q: int) -> Array:
      top, left = p * height.stride, q * width.stride
      window = lax.slice(
        inputs,
        (0, top, left, 0),
        (group, top + height.kernel_size, left + width.kernel_size, channels),
      )
      return window * lax.slice(
        gradients, (0, p, q, 0), (group, p + 1, q + 1, channels)
      )

    return accumulator + _sum(
      _sum(position(p, q) for q in range(tile_columns))
      for p in range(tile_rows)
    )

  accumulator = lax.fori_loop(
    0,
    batch // group * num_tiles,
    add_tile,
    jnp.zeros(accumulator_shape, jnp.float32),
  )
  return accumulator.sum(0)[:, :, None].astype(x.dtype)


def _split(size: int) -> tuple[int, int]:
  """Tile length and number of tiles that cover `size` with little excess."""
  count = -(-size // _MAX_TILE)
  return -(-size // count), count


def _pads_for(axis: _Axis, output_size: int) -> tuple[int, int]:
  """Pads with which `axis` has `output_size` windows."""
  covered = (output_size - 1) * axis.stride + axis.kernel_size
  return axis.before, covered - axis.before - axis.size


def _shifted_gradients(
  x: Array, kernel: Array, dy: Array, geometry: _Geometry
) -> tuple[Array, Array]:
  return (
    _input_gradient(kernel, dy, geometry),
    _kernel_gradient(x, dy, geometry),
  )


# Forward and backward choose separately, in the open: JAX's derivative of the
# shifted sum is the slow kernel gradient that `_kernel_gradient` replaces.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _platform_conv(x: Array, kernel: Array, geometry: _Geometry) -> Array:
  return lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_shifted, geometry=geometry),
    default=functools.partial(_primitive, geometry=geometry),
  )


def _platform_conv_forward(
  x: Array, kernel: Array, geometry: _Geometry
) -> tuple[Array, tuple[Array, Array]]:
  return _platform_conv(x, kernel, geometry), (x, kernel)


def _platform_conv_backward(
  geometry: _Geometry, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
  return lax.platform_dependent(
    *residuals,
    dy,
    cpu=functools.partial(_shifted_gradients, geometry=geometry),
    default=functools.partial(_primitive_gradients, geometry=geometry),
  )


_platform_conv.defvjp(_platform_conv_forward, _platform_conv_backward)
