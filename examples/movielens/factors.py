"""Bayesian matrix factorisation by Gibbs sampling (Salakhutdinov and Mnih 2008, doi 10.1145/1390156.1390267).

    y_um ~ N(p_u · q_m + a_u + b_m, 1/α),   x_u = [p_u; a_u] ~ N(μ_U, Λ_U⁻¹),   z_m = [q_m; b_m] ~ N(μ_M, Λ_M⁻¹)

with Gaussian-Wishart priors on (μ, Λ) and a flat prior on log α. A draw of the chain is one full set of factors; what
is predicted is the mean over draws of P(y > t), so that the uncertainty of rarely seen users and films is in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import wishart

Floats = NDArray[np.float64]
_BETA = 2.0  # the prior's weight on μ = 0, in observations
_ROWS = 200_000  # pairs that are predicted at a time


@dataclass(frozen=True)
class Observed:
    """Values y [n] of pairs: users [n] in 0..n_users, movies [n] in 0..n_movies."""

    users: NDArray[np.int64]
    movies: NDArray[np.int64]
    values: Floats
    n_users: int
    n_movies: int


@dataclass(frozen=True)
class Draw:
    """One draw: users [n_users, rank + 1] and movies [n_movies, rank + 1], the last column the bias; α."""

    users: NDArray[np.float32]
    movies: NDArray[np.float32]
    precision: float

    def mean(self, users: NDArray[np.int64], movies: NDArray[np.int64]) -> NDArray[np.float32]:
        """[n]: the expected value of pairs."""
        x, z = self.users[users], self.movies[movies]
        product: NDArray[np.float32] = np.einsum("nk,nk->n", x[:, :-1], z[:, :-1]) + x[:, -1] + z[:, -1]
        return product


def probability(
    draws: list[Draw], users: NDArray[np.int64], movies: NDArray[np.int64], threshold: float
) -> NDArray[np.float32]:
    """[n] float32: P(y > threshold) of pairs, by the mean over draws."""
    result = np.zeros(len(users))
    for first in range(0, len(users), _ROWS):
        part = slice(first, first + _ROWS)
        for draw in draws:
            result[part] += ndtr((draw.mean(users[part], movies[part]) - threshold) * np.sqrt(draw.precision))
    return (result / len(draws)).astype(np.float32)


def sample(observed: Observed, rank: int, rng: np.random.Generator) -> Iterator[Draw]:
    """The chain, from small random factors on, without end; its first draws are not yet of the posterior."""
    by_user, by_movie = _grouped(observed.users, observed.n_users), _grouped(observed.movies, observed.n_movies)
    users, movies = (rng.normal(0, 0.1, (n, rank + 1)) for n in (observed.n_users, observed.n_movies))
    precision = 1.0
    while True:
        users = _draw_side(users, movies, by_user, observed.movies, observed.values, precision, rng)
        movies = _draw_side(movies, users, by_movie, observed.users, observed.values, precision, rng)
        draw = Draw(users.astype(np.float32), movies.astype(np.float32), precision)
        error = observed.values - draw.mean(observed.users, observed.movies)
        precision = rng.gamma(len(error) / 2, 2 / float(error @ error))
        yield Draw(draw.users, draw.movies, precision)


def _grouped(keys: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """For each key, the positions that have it."""
    return np.split(np.argsort(keys, kind="stable"), np.cumsum(np.bincount(keys, minlength=count))[:-1])


def _draw_side(
    before: Floats,
    others: Floats,
    groups: list[NDArray[np.int64]],
    other: NDArray[np.int64],
    values: Floats,
    precision: float,
    rng: np.random.Generator,
) -> Floats:
    """[n, rank + 1]: new factors of one side, given the other side's, `others`; value i is with others[other[i]]."""
    mean, inverse = draw_prior(before, rng)
    design = others[other]
    residual = values - design[:, -1]
    design[:, -1] = 1
    grams, sums = np.empty((len(before), *inverse.shape)), np.empty_like(before)
    for i, group in enumerate(groups):
        mine = design[group]
        grams[i], sums[i] = mine.T @ mine, mine.T @ residual[group]
    lower = np.linalg.cholesky(inverse + precision * grams)
    # With L Lᵀ the posterior precision and r the right side, L⁻ᵀ (L⁻¹ r + noise) has its mean and covariance.
    half = np.linalg.solve(lower, (precision * sums + inverse @ mean)[:, :, None])
    drawn: Floats = np.linalg.solve(lower.mT, half + rng.normal(size=half.shape))[:, :, 0]
    return drawn


def draw_prior(factors: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(μ [k], Λ [k, k]) given factors [n, k], under a Gaussian-Wishart prior with W = I and ν = k."""
    n, k = factors.shape
    mean = factors.mean(axis=0)
    centred = factors - mean
    scatter = centred.T @ centred + np.eye(k) + _BETA * n / (_BETA + n) * np.outer(mean, mean)
    scale = np.linalg.inv(scatter)
    inverse = np.atleast_2d(wishart.rvs(df=k + n, scale=(scale + scale.T) / 2, random_state=rng))
    lower = np.linalg.cholesky((_BETA + n) * inverse)
    drawn: Floats = n / (_BETA + n) * mean + np.linalg.solve(lower.T, rng.normal(size=k))
    return drawn, inverse
