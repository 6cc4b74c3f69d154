"""The world behind the synthetic ecosystem: who sees what, and how probable a click and a conversion are.

    world = World(Settings(seed=1, users=4000, items=1000, surfaces=4))
    rows = world.surfaces[0].draw(window=0, count=1000, rng=np.random.default_rng(0))
    rows.columns["user_id"], rows.click, rows.conversion

Surfaces share users, items, their latent factors and what those are worth. Each has of its own: which users and items
it shows, how much each latent dimension counts, what a segment thinks of a category, and when and on which device
people click. From window to window items and tastes drift, and new items come. A probability is a function of the
columns and of the window alone, so the best possible model of a window's rows has exactly these probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DEVICES = ("phone", "tablet", "desktop", "tv")
FACTORS = 6
SEGMENTS = 12
CATEGORIES = 20
ADVERTISERS = 80
HISTORY = 8  # items that a user has liked before
WINDOWS = 6  # of training; the valid split is the window after them, the test split the one after that
_POSITIONS = 10
_SKEW = 2.0  # share of rows of the most popular x of users or items: x ** (1 / _SKEW)


@dataclass(frozen=True)
class Settings:
    """What decides a world. users, items, surfaces: how many of each."""

    seed: int
    users: int
    items: int
    surfaces: int


@dataclass(frozen=True)
class Rows:
    """Rows of one surface in one window.

    Attributes:
        columns: by name, [n] each; `history` [n, HISTORY] item ids, the one liked most last.
        click: [n] true probability of a click.
        conversion: [n] true probability of a click with a conversion.
    """

    columns: dict[str, NDArray[np.int64] | NDArray[np.float64] | NDArray[np.str_]]
    click: Floats
    conversion: Floats


class World:
    """What the surfaces have in common."""

    def __init__(self, settings: Settings) -> None:
        rng = np.random.default_rng([settings.seed, 0])
        self.settings = settings
        users, items = settings.users, settings.items
        segments, categories = rng.normal(size=(SEGMENTS, FACTORS)), rng.normal(size=(CATEGORIES, FACTORS))
        self.segment = rng.integers(SEGMENTS, size=users)
        self.category = rng.integers(CATEGORIES, size=items)
        self.user_factors = 0.9 * segments[self.segment] + 0.45 * rng.normal(size=(users, FACTORS))
        self.item_factors = 0.9 * categories[self.category] + 0.45 * rng.normal(size=(items, FACTORS))
        self.activity = np.exp(rng.normal(size=users))
        self.popularity = rng.normal(size=items)
        self.advertiser = (ADVERTISERS * rng.random(items) ** _SKEW).astype(np.int64)
        self.advertiser_worth = 0.3 * rng.normal(size=ADVERTISERS)
        self.quality = 0.4 * rng.normal(size=items)
        self.trend = 0.08 * rng.normal(size=items)  # of quality, per window
        self.taste_trend = 0.06 * rng.normal(size=(SEGMENTS, CATEGORIES))  # of a segment for a category, per window
        self.price = np.exp(1.0 + 0.7 * rng.normal(size=items))
        self.fair_price = 1.0 + 0.5 * rng.normal(size=SEGMENTS)  # logarithm of what a segment likes to pay
        # Four of five items are there from the start.
        self.release = np.where(rng.random(items) < 0.8, 0, rng.integers(1, WINDOWS + 2, size=items))
        self.history = self._histories(rng)
        self.surfaces = [Surface(self, number) for number in range(settings.surfaces)]

    def _histories(self, rng: np.random.Generator) -> Ints:
        """[users, HISTORY] of the first window's items: by Gumbel noise, likelier the better they suit the user."""
        old = np.flatnonzero(self.release == 0)
        result = np.empty((len(self.user_factors), HISTORY), dtype=np.int64)
        for user, factors in enumerate(self.user_factors):
            seen = rng.choice(old, size=min(100, len(old)), replace=False)
            score = self.item_factors[seen] @ factors + self.popularity[seen] + rng.gumbel(size=len(seen))
            chosen = seen[np.argsort(score)[-HISTORY:]]
            result[user] = np.resize(chosen, HISTORY)  # fewer items than that only in tiny worlds
        return result


class Surface:
    """One surface: whom and what it shows, and what is its own in what people do there."""

    def __init__(self, world: World, number: int) -> None:
        rng = np.random.default_rng([world.settings.seed, 1, number])
        self.world = world
        self.name = f"surface_{number:03d}"
        # Most active users and most popular items first, with an order of the surface's own mixed in.
        self._users = np.argsort(-np.log(world.activity) - 0.8 * rng.normal(size=len(world.activity)))
        self._items = np.argsort(-world.popularity - 0.8 * rng.normal(size=len(world.popularity)))
        self._mix = 1.0 + 0.5 * rng.normal(size=FACTORS)
        self._tastes = 0.35 * rng.normal(size=(SEGMENTS, CATEGORIES))
        self._hours = 0.4 * np.sin(2 * np.pi * (np.arange(24) + 24 * rng.random()) / 24) + 0.1 * rng.normal(size=24)
        self._devices = 0.3 * rng.normal(size=len(DEVICES))
        self._device_shares = rng.dirichlet(np.full(len(DEVICES), 2.0))
        self._biases = (0.0, 0.0)
        # Rates by which surfaces differ: of clicks, and of conversions among them.
        self._biases = self._calibrated(rng, click=rng.uniform(0.08, 0.4), conversion=rng.uniform(0.15, 0.4))

    def draw(self, window: int, count: int, rng: np.random.Generator) -> Rows:
        """Draws `count` impressions of a window, counted from 0."""
        world = self.world
        user = self._users[(len(self._users) * rng.random(count) ** _SKEW).astype(np.int64)]
        shown = self._items[world.release[self._items] <= window]
        item = shown[(len(shown) * rng.random(count) ** _SKEW).astype(np.int64)]
        hour = rng.integers(24, size=count)
        device = rng.choice(len(DEVICES), p=self._device_shares, size=count)
        position = rng.integers(_POSITIONS, size=count)
        price = world.price[item] * np.exp(0.2 * rng.normal(size=count))
        click, conversion = self._logits(window, user, item, hour, device, position, price)
        p_click = _sigmoid(click + self._biases[0])
        columns = {
            "user_id": user,
            "item_id": item,
            "segment": np.char.add("s", world.segment[user].astype(str)),
            "category": np.char.add("c", world.category[item].astype(str)),
            "advertiser": world.advertiser[item],
            "device": np.array(DEVICES)[device],
            "hour": hour,
            "position": position,
            "price": price,
            "activity": world.activity[user],
            "age": (window - world.release[item]).astype(np.float64),
            "history": world.history[user],
            "window": np.full(count, window),
        }
        return Rows(columns, p_click, p_click * _sigmoid(conversion + self._biases[1]))

    def _logits(
        self, window: int, user: Ints, item: Ints, hour: Ints, device: Ints, position: Ints, price: Floats
    ) -> tuple[Floats, Floats]:
        """[n] each, without the surface's biases: of a click, and of a conversion after one."""
        world = self.world
        users, items = world.user_factors[user], world.item_factors[item]
        segment, category = world.segment[user], world.category[item]
        match = (users * self._mix * items).sum(axis=1) / np.sqrt(FACTORS)
        # What is most like this item among those that the user liked.
        alike = np.einsum("nhk,nk->nh", world.item_factors[world.history[user]], items).max(axis=1) / FACTORS
        taste = self._tastes[segment, category] + window * world.taste_trend[segment, category]
        worth = world.quality[item] + window * world.trend[item] + world.advertiser_worth[world.advertiser[item]]
        suits = np.exp(-2.0 * (np.log(price) - world.fair_price[segment]) ** 2)
        age = window - world.release[item]
        click = 0.9 * match + 0.6 * alike + taste + worth + 0.8 * suits - 0.5 * age / (1.0 + age)
        click += self._hours[hour] + self._devices[device] - 0.5 * np.log1p(position)
        click += 0.3 * np.sin(2.0 * np.log(world.activity[user]))
        conversion = 0.5 * match + 0.5 * taste + 1.2 * suits - 0.4 * np.log(price) + 0.5 * self._devices[device]
        return click, conversion

    def _calibrated(self, rng: np.random.Generator, click: float, conversion: float) -> tuple[float, float]:
        """The biases with which the first window has these rates of clicks, and of conversions per click."""
        rows = self.draw(0, 20_000, rng)
        clicks = np.log(rows.click / (1 - rows.click))
        after = rows.conversion / rows.click
        bias = _solve(lambda shift: float(_sigmoid(clicks + shift).mean()), click)
        p = _sigmoid(clicks + bias)
        logits = np.log(after / (1 - after))
        rate = _solve(lambda shift: float((p * _sigmoid(logits + shift)).mean() / p.mean()), conversion)
        return bias, rate


def _solve(rate: Callable[[float], float], target: float) -> float:
    """The shift at which an increasing rate is the target, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) < target else (low, middle)
    return (low + high) / 2


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 1.0 / (1.0 + np.exp(-x))
    return result
