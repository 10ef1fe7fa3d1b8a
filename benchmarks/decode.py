"""How many X-rays of full size a second can be read: ``python -m benchmarks.decode``.

Decodes 4020 x 4892 PNGs of 16 bits and shrinks them to 512 x 512, by this project's reader (OpenCV, on one core and on
all) and by Pillow (on one core and on all), in turns within one run.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import PIL
from PIL import Image

from core.images import decode, encode
from core.parallel import cores

WIDTH, HEIGHT = 4020, 4892  # Montgomery's upright X-rays
SIZE = 512


def radiograph(seed: int) -> bytes:
    """Return a PNG of 16 bits that holds 12: smooth anatomy and the noise of a detector, so that it packs as one."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(2048, 500, (40, 33)).astype(np.float32)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    noise = generator.normal(0, 12, (HEIGHT, WIDTH)).astype(np.float32)
    return encode(np.clip(smooth + noise, 0, 4095).astype(np.uint16))


def with_opencv(data: bytes) -> np.ndarray:
    """Read as every step does, checksums included: uint16 (512, 512)."""
    pixels, _ = decode(data, "benchmark")
    small: np.ndarray = cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return small


def with_pillow(data: bytes) -> np.ndarray:
    """Read with Pillow, whose box filter comes nearest to an area average: float32 (512, 512)."""
    with Image.open(io.BytesIO(data)) as image:
        # Pillow resizes no 16-bit pictures but by nearest neighbour: F is the mode it can average them in.
        return np.asarray(image.convert("F").resize((SIZE, SIZE), Image.Resampling.BOX))


def measure(read: Callable[[bytes], np.ndarray], files: Sequence[bytes], workers: int) -> tuple[float, float]:
    """Return images a second by the clock, and processor seconds an image (which other programs disturb less)."""
    with ThreadPoolExecutor(workers) as pool:
        start, busy = time.perf_counter(), time.process_time()
        for _ in pool.map(read, files):
            pass
        return len(files) / (time.perf_counter() - start), (time.process_time() - busy) / len(files)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8, help="pictures made and read in each turn")
    parser.add_argument("--turns", type=int, default=5, help="turns of every way, one after the other")
    arguments = parser.parse_args()
    files = [radiograph(seed) for seed in range(arguments.images)]
    for data in files[:2]:
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(np.asarray(image), decode(data, "benchmark")[0]), "the two readers see other pixels"
        # OpenCV averages over parts of pixels, Pillow's box over whole ones: near, not equal (of 4096 grey values).
        assert np.abs(with_opencv(data) - with_pillow(data)).mean() < 2, "the two readers do not do the same work"

    ways = {
        f"{name}, {workers} core{'s' * (workers > 1)}": (read, workers)
        for name, read in (("OpenCV", with_opencv), ("Pillow", with_pillow))
        for workers in sorted({1, cores()})
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(arguments.turns):
        for way, (read, workers) in ways.items():
            found[way].append(measure(read, files, workers))

    megabytes = statistics.mean(len(data) for data in files) / 1e6
    print(f"{len(files)} PNGs of {WIDTH} x {HEIGHT}, 16 bits, {megabytes:.1f} MB each, to {SIZE} x {SIZE}; ", end="")
    print(f"{arguments.turns} turns; OpenCV {cv2.__version__}, Pillow {PIL.__version__}")
    print(f"{'':18}{'images/s':>10}{'least':>8}{'most':>8}{'x Pillow, 1 core':>19}{'CPU s/image':>14}")
    base = [speed for speed, _ in found["Pillow, 1 core"]]
    for way, turns in found.items():
        speeds = [speed for speed, _ in turns]
        ratio = statistics.median(one / other for one, other in zip(speeds, base, strict=True))
        busy = statistics.median(seconds for _, seconds in turns)
        middle = statistics.median(speeds)
        print(f"{way:18}{middle:10.2f}{min(speeds):8.2f}{max(speeds):8.2f}{ratio:19.2f}{busy:14.3f}")


if __name__ == "__main__":
    main()
