"""Bootstrap: percentiles of an estimate over draws of its data with replacement.

Shapes: `B` draws, `N` items (questions, seeds or runs).
"""

import numpy as np

DRAWS = 2000


def resample(generator: np.random.Generator, items: int, samples: int | np.ndarray = 1) -> np.ndarray:
    """Count how often each draw with replacement holds each item, (B, N).

    Args:
        generator: generators of one seed draw the same, which pairs the estimates that are computed from their draws.
        samples: full samples in each draw, a number or (B,). In a bootstrap of two levels: how often a draw holds the
            group that the items belong to.
    """
    return generator.multinomial(items * np.broadcast_to(samples, DRAWS), np.full(items, 1 / items))


def interval(estimates: np.ndarray, level: float = 95) -> np.ndarray:
    """Return the ends between which `level` per cent of the draws lie, (2, ...) of estimates (B, ...)."""
    outside = (100 - level) / 2
    return np.percentile(estimates, (outside, 100 - outside), axis=0)
