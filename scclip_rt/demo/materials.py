"""Procedural materials of the demo scenes: each paints one texture over a canvas.

A material is a function of a `Canvas` (rotated, scaled texture coordinates and seeded noise) that returns
float32 (H, W, 3) RGB in [0, 255]. Sizes are in texture pixels: one equals one image pixel at scale 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[Any]  # float32 throughout; the type stubs of OpenCV cannot say so
Colour = Sequence[float] | Field

NOISE_TILE = 128
CELL_TILE = 64


@dataclass(frozen=True, slots=True)
class Canvas:
    """Texture coordinates of one image and the random numbers that vary the material.

    Attributes:
        rng: source of every random choice.
        u: float32 (H, W), texture pixels across the material.
        v: float32 (H, W), texture pixels along the material.
    """

    rng: np.random.Generator
    u: Field
    v: Field

    @classmethod
    def create(
        cls, rng: np.random.Generator, height: int, width: int, *, tilt: float, scale: float
    ) -> Canvas:
        """A canvas turned by at most `tilt` radians, with a random origin.

        Args:
            rng: source of the angle and the origin.
            height: rows of the image.
            width: columns of the image.
            tilt: largest absolute rotation in radians.
            scale: image pixels per texture pixel.
        """
        angle = rng.uniform(-tilt, tilt)
        c, s = math.cos(angle) / scale, math.sin(angle) / scale
        x = np.arange(width, dtype=np.float32)[None, :]
        y = np.arange(height, dtype=np.float32)[:, None]
        ou, ov = rng.uniform(256, 1024, 2).astype(np.float32)
        return cls(
            rng,
            (np.float32(c) * x + np.float32(s) * y + ou).astype(np.float32),
            (np.float32(-s) * x + np.float32(c) * y + ov).astype(np.float32),
        )

    def noise(self, across: float, along: float | None = None) -> Field:
        """Smooth value noise in [0, 1], mean 0.5, with features of `across` by `along` texture pixels."""
        import cv2  # the names of the materials don't need it

        tile = self.rng.random((NOISE_TILE, NOISE_TILE), dtype=np.float32)
        along = across if along is None else along
        # Two linear samples half a cell apart hide the lattice that one linear sample shows.
        u, v = self.u * np.float32(1 / across), self.v * np.float32(1 / along)
        first = cv2.remap(tile, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        second = cv2.remap(tile, u + 37.5, v + 53.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        field: Field = np.clip((first + second - 1.0) * 0.8 + 0.5, 0.0, 1.0)
        return field

    def warped(self, amount: float, size: float) -> Canvas:
        """The same canvas with coordinates displaced by up to `amount` over noise of `size`."""
        du = (self.noise(size) - 0.5) * np.float32(2 * amount)
        dv = (self.noise(size) - 0.5) * np.float32(2 * amount)
        return Canvas(self.rng, self.u + du, self.v + dv)

    def cells(self, size: float, jitter: float = 0.9) -> tuple[Field, Field, Field, Field, Field]:
        """Voronoi cells around jittered lattice points.

        Returns:
            float32 (H, W) each: distance to the nearest point, to the second nearest, a random value in
            [0, 1) per cell, and the offset to the nearest point across and along, all in texture pixels.
        """
        table = self.rng.random((3, CELL_TILE, CELL_TILE), dtype=np.float32)
        x, y = self.u / np.float32(size), self.v / np.float32(size)
        left, top = np.floor(x), np.floor(y)
        column, row = left.astype(np.int32), top.astype(np.int32)
        x, y = x - left - np.float32(0.5), y - top - np.float32(0.5)
        points = (table[:2] - np.float32(0.5)) * np.float32(jitter)
        best = np.full(x.shape, 1e9, np.float32)
        second = best.copy()
        value, best_x, best_y = np.zeros_like(best), np.zeros_like(best), np.zeros_like(best)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                flat = ((row + dy) & (CELL_TILE - 1)) * CELL_TILE + ((column + dx) & (CELL_TILE - 1))
                px = x - np.float32(dx) - points[0].take(flat)
                py = y - np.float32(dy) - points[1].take(flat)
                distance = px * px + py * py
                closer = distance < best
                second = np.where(closer, best, np.minimum(second, distance))
                np.copyto(best, distance, where=closer)
                np.copyto(value, table[2].take(flat), where=closer)
                np.copyto(best_x, px, where=closer)
                np.copyto(best_y, py, where=closer)
        scale = np.float32(size)
        return np.sqrt(best) * scale, np.sqrt(second) * scale, value, best_x * scale, best_y * scale

    def colour(self, red: float, green: float, blue: float, spread: float = 14.0) -> Field:
        """The colour with a common shift of brightness and a smaller one per channel, float32 (3,)."""
        shift = self.rng.normal(0, spread * 0.7) + self.rng.normal(0, spread * 0.5, 3)
        return (np.array([red, green, blue]) + shift).astype(np.float32)

    def vivid(self) -> Field:
        """A saturated random colour, float32 (3,)."""
        hue = self.rng.uniform(0, 6)
        ramp = np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1
        colour: Field = np.clip(ramp, 0, 1) * self.rng.uniform(140, 210) + self.rng.uniform(10, 40)
        return colour.astype(np.float32)


def blend(low: Colour, high: Colour, amount: Field) -> Field:
    """Low + (high − low)·amount for colours (3,) or images (H, W, 3) and amounts (H, W)."""
    import cv2

    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    if low.ndim == high.ndim == 1:
        image: Field = cv2.merge([amount * (b - a) + a for a, b in zip(low, high, strict=True)])
    else:
        image = low + (high - low) * planes(amount)
    return image


def planes(amount: Field) -> Field:
    """(H, W) repeated to (H, W, 3); a broadcast over three channels is several times slower."""
    import cv2

    return cv2.merge([amount, amount, amount])


def step(value: Field, start: float, end: float) -> Field:
    """0 below `start`, 1 above `end`, linear between (descending when end < start)."""
    field: Field = np.clip((value - np.float32(start)) * np.float32(1 / (end - start)), 0.0, 1.0)
    return field


def wave(phase: Field) -> Field:
    """Sine of `phase` turns, in [0, 1]."""
    return np.sin(phase * np.float32(2 * math.pi)) * 0.5 + 0.5


def ridge(noise: Field, sharpness: float) -> Field:
    """Bright lines where the noise crosses its mean, in [0, 1]."""
    field: Field = np.clip(1.0 - np.abs(noise - 0.5) * np.float32(sharpness), 0.0, 1.0)
    return field


def lattice_value(canvas: Canvas, column: Field, row: Field) -> Field:
    """A random value in [0, 1) per lattice cell; `column` and `row` hold whole numbers."""
    table = canvas.rng.random(CELL_TILE * CELL_TILE, dtype=np.float32)
    field: Field = table[(row.astype(np.int32) % CELL_TILE) * CELL_TILE + column.astype(np.int32) % CELL_TILE]
    return field


def grass(canvas: Canvas) -> Field:
    """Upright blades from dark to light green."""
    blades = step(canvas.noise(2.0, 9.0), 0.2, 0.8)
    image = blend(canvas.colour(34, 84, 22), canvas.colour(118, 172, 58), blades)
    return image * planes(0.8 + 0.4 * canvas.noise(26))


def sand(canvas: Canvas) -> Field:
    """Pale ripples with grain."""
    ripples = wave(canvas.v / 11 + 1.6 * canvas.noise(28))
    image = blend(canvas.colour(196, 164, 110), canvas.colour(226, 198, 148), ripples)
    return image + planes((canvas.noise(1.4) - 0.5) * 34)


def sky(canvas: Canvas) -> Field:
    """Blue, lighter towards the horizon, with soft clouds."""
    height = step(canvas.v - canvas.v.min(), 0, float(np.ptp(canvas.v)) + 1)
    image = blend(canvas.colour(62, 128, 220), canvas.colour(150, 198, 242), height)
    clouds = 0.6 * canvas.noise(44, 24) + 0.4 * canvas.noise(17, 11)
    return blend(image, canvas.colour(246, 248, 252, 5), step(clouds, 0.5, 0.72))


def water(canvas: Canvas) -> Field:
    """Deep blue under a net of bright lines."""
    warped = canvas.warped(5, 18)
    lines = np.maximum(ridge(warped.noise(17, 9), 6.5), ridge(warped.noise(12, 7), 8.0))
    image = blend(canvas.colour(12, 70, 112), canvas.colour(24, 112, 146), canvas.noise(24, 12))
    return blend(image, canvas.colour(150, 218, 224), lines * 0.85)


def brick(canvas: Canvas) -> Field:
    """Red bricks in running bond, pale mortar."""
    row = np.floor(canvas.v / 11)
    across = canvas.u / 25 + 0.5 * (row % 2)
    column = np.floor(across)
    du, dv = (across - column) * 25, canvas.v - row * 11
    mortar = np.maximum(step(du, 2.4, 1.4), step(dv, 2.4, 1.4))
    shade = lattice_value(canvas, column, row) * 0.4 + canvas.noise(2) * 0.25 + 0.65
    return blend(blend(np.zeros(3), canvas.colour(166, 68, 48), shade), canvas.colour(198, 190, 178), mortar)


def snow(canvas: Canvas) -> Field:
    """White drifts with blue shadows."""
    drifts = 0.7 * canvas.noise(34, 20) + 0.3 * canvas.noise(9, 6)
    image = blend(canvas.colour(206, 220, 240, 6), canvas.colour(250, 251, 254, 3), step(drifts, 0.2, 0.65))
    return image + planes(step(canvas.noise(1.2), 0.8, 1.0) * 14)


def wood(canvas: Canvas) -> Field:
    """Brown rings along the grain."""
    rings = wave(canvas.v / 9 + 2.6 * canvas.noise(80, 18))
    grain = canvas.noise(34, 1.5)
    return blend(canvas.colour(112, 66, 32), canvas.colour(190, 132, 78), 0.6 * rings + 0.4 * grain)


def leopard(canvas: Canvas) -> Field:
    """Broken dark rosettes on tan fur."""
    near, _, value, _, _ = canvas.warped(3, 8).cells(14, 0.7)
    ring = step(near, 2.0, 3.0) * step(near, 6.2, 5.2) * step(canvas.noise(5), 0.3, 0.4)
    image = blend(canvas.colour(218, 172, 100), canvas.colour(176, 116, 52), step(near, 4.0, 2.5))
    return blend(image, canvas.colour(40, 26, 14, 7), ring * (0.85 + 0.15 * value))


def zebra(canvas: Canvas) -> Field:
    """Black and white stripes that bend."""
    stripes = step(wave(canvas.u / 15 + 1.5 * canvas.noise(34)), 0.4, 0.6)
    return blend(canvas.colour(22, 20, 20, 6), canvas.colour(240, 238, 232, 6), stripes)


def checkerboard(canvas: Canvas) -> Field:
    """Black and white squares."""
    odd = ((np.floor(canvas.u / 12) + np.floor(canvas.v / 12)) % 2).astype(np.float32)
    return blend(canvas.colour(30, 28, 28), canvas.colour(232, 228, 220), odd)


def tiles(canvas: Canvas) -> Field:
    """Glazed turquoise squares, pale grout."""
    column, row = np.floor(canvas.u / 23), np.floor(canvas.v / 23)
    du, dv = canvas.u - column * 23, canvas.v - row * 23
    grout = np.maximum(step(du, 2.6, 1.6), step(dv, 2.6, 1.6))
    shade = lattice_value(canvas, column, row) * 0.25 + 0.8 + 0.006 * (du - dv)
    return blend(blend(np.zeros(3), canvas.colour(84, 184, 176), shade), canvas.colour(238, 236, 230), grout)


def polka_dots(canvas: Canvas) -> Field:
    """Staggered dots, white on a vivid colour or the reverse."""
    row = np.floor(canvas.v / 14)
    across = canvas.u / 16 + 0.5 * (row % 2)
    du, dv = (across - np.floor(across) - 0.5) * 16, canvas.v - row * 14 - 7
    dots = step(np.sqrt(du * du + dv * dv), 5.4, 4.4)
    ground, white = canvas.vivid(), canvas.colour(244, 242, 240, 5)
    return blend(white, ground, dots) if canvas.rng.random() < 0.35 else blend(ground, white, dots)


def lava(canvas: Canvas) -> Field:
    """Black crust with glowing cracks."""
    warped = canvas.warped(7, 16)
    glow = np.maximum(ridge(warped.noise(22), 7.0), 0.8 * ridge(warped.noise(12), 9.0))
    image = blend(canvas.colour(36, 22, 20, 7), canvas.colour(232, 66, 10), step(glow, 0.05, 0.5))
    return blend(image, canvas.colour(255, 222, 90, 8), step(glow, 0.5, 0.95))


def gravel(canvas: Canvas) -> Field:
    """Grey pebbles with dark gaps."""
    near, second, value, _, _ = canvas.cells(9)
    image = blend(canvas.colour(96, 94, 90), canvas.colour(186, 182, 174), value)
    return image * planes(0.35 + 0.65 * step(second - near, 0.2, 2.4))


def denim(canvas: Canvas) -> Field:
    """Indigo twill."""
    twill = wave((canvas.u + canvas.v) / 4.2)
    weave = 0.5 * canvas.noise(1.5, 10) + 0.5 * canvas.noise(10, 1.5)
    image = blend(canvas.colour(34, 52, 98), canvas.colour(94, 122, 172), 0.5 * twill + 0.5 * weave)
    return image * planes(0.9 + 0.2 * canvas.noise(40))


def metal(canvas: Canvas) -> Field:
    """Brushed steel with a broad sheen."""
    brushed = canvas.noise(70, 1.2)
    sheen = wave(canvas.v / 110 + 0.3 * canvas.noise(120))
    return blend(canvas.colour(112, 118, 126), canvas.colour(216, 220, 226), 0.45 * brushed + 0.55 * sheen)


def tiger(canvas: Canvas) -> Field:
    """Black tapering stripes on orange fur."""
    stripes = wave(canvas.u / 19 + 1.3 * canvas.noise(22)) - 0.5 * canvas.noise(9, 26)
    fur = blend(canvas.colour(214, 112, 28), canvas.colour(240, 164, 72), canvas.noise(3, 20))
    return blend(fur, canvas.colour(26, 18, 14, 6), step(stripes, 0.32, 0.46))


def giraffe(canvas: Canvas) -> Field:
    """Brown patches parted by cream lines."""
    near, second, value, _, _ = canvas.warped(2, 10).cells(27, 0.75)
    patch = blend(canvas.colour(142, 84, 36), canvas.colour(174, 108, 52), value)
    return blend(canvas.colour(234, 212, 168), patch, step(second - near, 2.5, 4.5))


def tartan(canvas: Canvas) -> Field:
    """Red and green plaid with yellow lines."""
    ground, band, line = canvas.colour(176, 24, 34), canvas.colour(18, 62, 44), canvas.colour(238, 222, 120)

    def threads(position: Field) -> Field:
        phase = position % 44
        cloth = blend(ground, band, ((phase > 18) & (phase < 36)).astype(np.float32))
        return blend(cloth, line, ((phase > 7) & (phase < 9.5)).astype(np.float32))

    over = step(wave((canvas.u + canvas.v) / 4), 0.3, 0.7)
    return blend(threads(canvas.u), threads(canvas.v), over * 0.6 + 0.2)


def marble(canvas: Canvas) -> Field:
    """White stone with grey veins."""
    warped = canvas.warped(14, 30)
    veins = np.maximum(ridge(warped.noise(46, 26), 12.0), 0.5 * ridge(warped.noise(20), 14.0))
    image = blend(canvas.colour(210, 208, 206, 7), canvas.colour(240, 239, 236, 5), canvas.noise(40))
    return blend(image, canvas.colour(92, 94, 100), veins * 0.8)


def honeycomb(canvas: Canvas) -> Field:
    """Golden hexagons with brown walls."""
    size = 16.0
    y = canvas.v / np.float32(size * 0.866)
    best = np.full(y.shape, 1e9, np.float32)
    second = best.copy()
    for dy in (0, 1):
        row = np.floor(y) + dy
        x = canvas.u / np.float32(size) - 0.5 * (row % 2)
        du = (x - np.round(x)) * size
        dv = (y - row) * np.float32(size * 0.866)
        for distance in (np.hypot(du, dv), np.hypot(size - np.abs(du), dv)):
            second = np.where(distance < best, best, np.minimum(second, distance))
            best = np.minimum(best, distance)
    image = blend(canvas.colour(250, 190, 50), canvas.colour(206, 122, 14), step(best, 1, 8))
    return blend(image, canvas.colour(116, 62, 10, 8), step(second - best, 3.0, 1.8))


def night_sky(canvas: Canvas) -> Field:
    """Stars on dark blue."""
    haze = blend(canvas.colour(6, 8, 28, 5), canvas.colour(46, 30, 84, 10), step(canvas.noise(50), 0.4, 0.9))
    near, _, value, _, _ = canvas.cells(11)
    stars = step(near, 1.5, 0.5) * step(value, 0.25, 0.6)
    return blend(haze, canvas.colour(250, 248, 226, 4), stars)


def flowers(canvas: Canvas) -> Field:
    """Five-petalled blossoms in three colours over leaves."""
    near, _, value, du, dv = canvas.cells(18, 0.6)
    petals = step(near, 8.2, 7.2) * step(np.cos(5 * np.arctan2(dv, du)) * 2.4 + 6.0 - near, -0.6, 0.6)
    leaves = blend(canvas.colour(22, 70, 26), canvas.colour(70, 130, 50), canvas.noise(4))
    colours = np.stack(
        [canvas.colour(236, 96, 160), canvas.colour(168, 84, 214), canvas.colour(244, 240, 246)]
    )
    petal = colours[(value * 3).astype(np.int32)]
    image = leaves + (petal - leaves) * planes(petals)
    return blend(image, canvas.colour(250, 206, 40), step(near, 2.8, 2.0))


def camouflage(canvas: Canvas) -> Field:
    """Blotches of olive, dark green, brown and tan."""
    image = blend(
        canvas.colour(98, 104, 62, 9), canvas.colour(44, 52, 34, 7), step(canvas.noise(20, 13), 0.52, 0.55)
    )
    image = blend(image, canvas.colour(88, 64, 42, 8), step(canvas.noise(18, 12), 0.58, 0.61))
    return blend(image, canvas.colour(166, 156, 112, 9), step(canvas.noise(16, 11), 0.64, 0.67))


@dataclass(frozen=True, slots=True)
class Material:
    """One class of the demo.

    Attributes:
        name: the class name, as captions and vocabularies spell it.
        synonyms: other names captions use now and then.
        paint: the texture.
        tilt: largest rotation in radians; textures with an up side lean less.
    """

    name: str
    paint: Callable[[Canvas], Field]
    synonyms: tuple[str, ...] = ()
    tilt: float = math.pi


MATERIALS: tuple[Material, ...] = (
    Material("grass", grass, ("lawn",), 0.5),
    Material("sand", sand, ("a sandy beach",)),
    Material("sky", sky, ("clouds",), 0.3),
    Material("water", water, ("the sea",), 0.5),
    Material("brick", brick, ("a brick wall",)),
    Material("snow", snow),
    Material("wood", wood, ("a wooden board",)),
    Material("leopard", leopard, ("leopard fur",)),
    Material("zebra", zebra, ("zebra stripes",)),
    Material("checkerboard", checkerboard, ("a chessboard",)),
    Material("tiles", tiles, ("ceramic tiles",)),
    Material("polka dots", polka_dots),
    Material("lava", lava, ("magma",)),
    Material("gravel", gravel, ("pebbles",)),
    Material("denim", denim, ("jeans",)),
    Material("metal", metal, ("brushed steel",)),
    Material("tiger", tiger, ("tiger fur",)),
    Material("giraffe", giraffe, ("giraffe skin",)),
    Material("tartan", tartan, ("plaid cloth",)),
    Material("marble", marble),
    Material("honeycomb", honeycomb, ("a beehive",)),
    Material("night sky", night_sky, ("stars",)),
    Material("flowers", flowers, ("blossoms",)),
    Material("camouflage", camouflage),
)
