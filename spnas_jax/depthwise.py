"""Depthwise convolution whose form is chosen for the platform it runs on."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Implementation = Literal['auto', 'primitive', 'shifted']
Padding = Literal['same', 'symmetric']

_DIMENSION_NUMBERS = ('NHWC', 'HWIO', 'NHWC')
_MAX_TILE = 64


class _Axis(NamedTuple):
  size: int
  kernel_size: int
  stride: int
  before: int
  after: int

  @property
  def output_size(self) -> int:
    padded = self.before + self.size + self.after
    return (padded - self.kernel_size) // self.stride + 1


class _Geometry(NamedTuple):
  height: _Axis
  width: _Axis


def _make_axis(size, kernel_size, stride, padding):
  if padding == 'symmetric':
    before = after = kernel_size // 2
  else:
    output_size = -(-size // stride)
    total = max((output_size - 1) * stride + kernel_size - size, 0)
    before, after = total // 2, total - total // 2
  return _Axis(size, kernel_size, stride, before, after)


def depthwise_conv(
  x, kernel, *, stride=1, padding='same', implementation='auto'
):
  k = kernel.shape[0]
  g = _Geometry(*(_make_axis(n, k, stride, padding) for n in x.shape[1:3]))
  if implementation == 'primitive':
    return _primitive(x, kernel, g)
  if implementation == 'shifted':
    return _shifted_conv(x, kernel, g)
  return _platform_conv(x, kernel, g)


def _primitive(x, kernel, g):
  return lax.conv_general_dilated(
    x,
    kernel,
    (g.height.stride, g.width.stride),
    ((g.height.before, g.height.after), (g.width.before, g.width.after)),
    dimension_numbers=_DIMENSION_NUMBERS,
    feature_group_count=x.shape[-1],
  )


def _primitive_gradients(x, kernel, dy, g):
  return jax.vjp(functools.partial(_primitive, g=g), x, kernel)[1](dy)


def _pad(x, g):
  h, w = g
  return lax.pad(
    x,
    jnp.zeros((), x.dtype),
    ((0, 0, 0), (h.before, h.after, 0), (w.before, w.after, 0), (0, 0, 0)),
  )


def _sum(xs):
  return functools.reduce(lax.add, xs)


def _shifted(x, kernel, g):
  b, _, _, c = x.shape
  h, w = g
  k = h.kernel_size
  oh, ow, s = h.output_size, w.output_size, h.stride
  xp = _pad(x.astype(jnp.float32), g)
  kernel = kernel.astype(jnp.float32)

  def tap(i, j):
    return (
      lax.slice(
        xp,
        (0, i, j, 0),
        (b, i + (oh - 1) * s + 1, j + (ow - 1) * s + 1, c),
        (1, s, s, 1),
      )
      * kernel[i : i + 1, j : j + 1]
    )

  return _sum(_sum(tap(i, j) for j in range(k)) for i in range(k)).astype(
    x.dtype
  )


def _phases(a):
  h = a
  last = (h.stride - 1 + h.before) // h.stride
  first = -((h.kernel_size - 1 - h.before) // h.stride)
  taps = last - first + 1
  front = h.stride * last - h.before
  back = h.stride * taps - h.kernel_size - front
  steps = -(-h.size // h.stride)
  return (
    taps,
    steps,
    (front, back),
    (-first, steps - 1 + last - (h.output_size - 1)),
  )


def _input_gradient(kernel, dy, g):
  b, _, _, c = dy.shape
  s = g.height.stride
  th, ph, kh, dh = _phases(g.height)
  tw, pw, kw, dw = _phases(g.width)
  zero = jnp.zeros((), jnp.float32)
  weights = lax.pad(
    kernel.astype(jnp.float32), zero, ((*kh, 0), (*kw, 0), (0, 0, 0), (0, 0, 0))
  ).reshape(th, s, tw, s, c)
  dyp = lax.pad(
    dy.astype(jnp.float32), zero, ((0, 0, 0), (*dh, 0), (*dw, 0), (0, 0, 0))
  )

  def tap(i, j):
    i0, j0 = th - 1 - i, tw - 1 - j
    part = lax.slice(dyp, (0, i0, j0, 0), (b, i0 + ph, j0 + pw, c))
    return part[:, :, None, :, None] * weights[None, None, i, :, None, j]

  dx = _sum(_sum(tap(i, j) for j in range(tw)) for i in range(th))
  dx = dx.reshape(b, ph * s, pw * s, c)
  return lax.slice(
    dx, (0, 0, 0, 0), (b, g.height.size, g.width.size, c)
  ).astype(dy.dtype)


def _tile(oh, ow):
  best = None
  for th in range(1, min(oh, _MAX_TILE) + 1):
    for tw in range(1, min(ow, _MAX_TILE // th) + 1):
      nh, nw = -(-oh // th), -(-ow // tw)
      cost = nh * nw * (th * tw + 8)
      if best is None or cost < best[0]:
        best = cost, (th, nh), (tw, nw)
  return best[1:]


def _kernel_gradient(x, dy, g):
  b, _, _, c = x.shape
  h, w = g
  k, s = h.kernel_size, h.stride
  (th, nh), (tw, nw) = _tile(h.output_size, w.output_size)
  eh, ew = nh * th - h.output_size, nw * tw - w.output_size
  zero = jnp.zeros((), jnp.float32)
  dyp = lax.pad(
    dy.astype(jnp.float32), zero, ((0, 0, 0), (0, eh, 0), (0, ew, 0), (0, 0, 0))
  )
  nr = (nh * th - 1) * s + k
  nc = (nw * tw - 1) * s + k
  xp = lax.pad(
    x.astype(jnp.float32),
    zero,
    (
      (0, 0, 0),
      (h.before, nr - h.before - h.size, 0),
      (w.before, nc - w.before - w.size, 0),
      (0, 0, 0),
    ),
  )

  def tile(xt, dt):
    def term(p, q):
      return lax.slice(
        xt, (0, p * s, q * s, 0), (b, p * s + k, q * s + k, c)
      ) * lax.slice(dt, (0, p, q, 0), (b, p + 1, q + 1, c))

    return _sum(_sum(term(p, q) for q in range(tw)) for p in range(th))

  if nh * nw == 1:
    acc = tile(xp, dyp)
  else:

    def body(n, acc):
      p, q = lax.div(n, nw) * th, lax.rem(n, nw) * tw
      xt = lax.dynamic_slice(
        xp, (0, p * s, q * s, 0), (b, (th - 1) * s + k, (tw - 1) * s + k, c)
      )
      dt = lax.dynamic_slice(dyp, (0, p, q, 0), (b, th, tw, c))
      return acc + tile(xt, dt)

    acc = lax.fori_loop(0, nh * nw, body, jnp.zeros((b, k, k, c), jnp.float32))
  return (
    jnp.einsum('b,bn->n', jnp.ones((b,)), acc.reshape(b, -1))
    .reshape(k, k, 1, c)
    .astype(x.dtype)
  )


def _shifted_gradients(x, kernel, dy, g):
  return _input_gradient(kernel, dy, g), _kernel_gradient(x, dy, g)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted_conv(x, kernel, g):
  return _shifted(x, kernel, g)


_shifted_conv.defvjp(
  lambda x, kernel, g: (_shifted(x, kernel, g), (x, kernel)),
  lambda g, r, dy: _shifted_gradients(*r, dy, g),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _platform_conv(x, kernel, g):
  return lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_shifted, g=g),
    default=functools.partial(_primitive, g=g),
  )


_platform_conv.defvjp(
  lambda x, kernel, g: (_platform_conv(x, kernel, g), (x, kernel)),
  lambda g, r, dy: lax.platform_dependent(
    *r,
    dy,
    cpu=functools.partial(_shifted_gradients, g=g),
    default=functools.partial(_primitive_gradients, g=g),
  ),
)
