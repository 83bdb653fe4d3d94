"""The policy that is pretrained in the simulator: it finds what is best where that is known, and knows no names."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.choice_policy import ChoicePolicy, Step
from benchmarks.played_rounds import (
    SHARPNESS,
    Draws,
    RankedRoom,
    by_plan,
    draw_set,
    image_steps,
    keep,
    kept,
    play,
    right,
    scales,
    set_steps,
)
from benchmarks.pretrain_policy import JUDGED, table
from benchmarks.simulator import made
from psp_ray.core.records import TextState
from psp_ray.selftrain.records import KnownLabels

PICKS, ITEMS = 3, 7


class Market:
    """Items with a value and a kind; one of a kind that was taken before is worth one less. Three are taken."""

    def __init__(self, seed):
        self.draw = np.random.default_rng(seed)
        self.values, self.kinds = self.draw.uniform(size=ITEMS), self.draw.integers(3, size=ITEMS)
        self.taken = []

    def left(self):
        return [item for item in range(ITEMS) if item not in self.taken]

    def known(self):
        """A number that says nothing beside those that do."""
        left, had = self.left(), self.kinds[self.taken]
        return np.stack([self.values[left], np.isin(self.kinds[left], had), self.draw.uniform(size=len(left))], 1)

    def rewards(self):
        left = self.left()
        return self.values[left] - np.isin(self.kinds[left], self.kinds[self.taken])

    def worth(self, items):
        return sum(self.values[list(items)]) - (len(items) - len(set(self.kinds[list(items)])))

    def best(self):
        return max(self.worth(items) for items in itertools.combinations(range(ITEMS), PICKS))


def traded(count):
    """Choices by chance, of which only what was taken has a known reward."""
    steps = []
    for seed in range(count):
        market, seen = Market(seed), []
        for _ in range(PICKS):
            x, rewards = market.known(), market.rewards()
            at = int(market.draw.integers(len(rewards)))
            seen.append((x, np.where(np.arange(len(rewards)) == at, rewards, np.nan), at))
            market.taken.append(market.left()[at])
        for number, (x, rewards, at) in enumerate(seen):
            following = seen[number + 1][0] if number + 1 < PICKS else None
            prior = None if following is None else np.zeros(len(following))
            steps.append(Step(x, np.zeros(len(rewards)), rewards, at, following, prior))
    return steps


def test_it_learns_the_best_choice_where_that_is_known(tmp_path):
    """Against the best of all sets, by trying them; from chance it knows single rewards alone."""
    policy = ChoicePolicy(3, 0, budget=1.5, lr=5e-3, width=24)
    assert policy.log_odds(Market(999).known(), np.arange(7.0)) == pytest.approx(np.arange(7.0))  # starts as its prior
    policy.learn(traded(150), 100)
    policy.save(tmp_path / "policy.safetensors")
    again = ChoicePolicy(3, 1, budget=1.5, width=24)
    again.load(tmp_path / "policy.safetensors")
    reached = best = chance = 0.0
    for seed in range(1000, 1040):
        market = Market(seed)
        for _ in range(PICKS):
            market.taken.append(
                market.left()[int(again.log_odds(market.known(), np.zeros(len(market.left()))).argmax())]
            )
        reached, best = reached + market.worth(market.taken), best + market.best()
        chance += np.mean([market.worth(items) for items in itertools.combinations(range(ITEMS), PICKS)])
    assert reached > chance + 0.9 * (best - chance)
    assert (tmp_path / "policy.safetensors").stat().st_size < 1 << 20


def test_with_an_empty_budget_it_stays_with_its_prior():
    prior = np.array([2.0, 0.0, 0.0])
    x, rewards = np.eye(3), np.array([0.0, 1.0, 0.0])
    free, held = (ChoicePolicy(3, 0, budget=budget, lr=2e-2, width=8) for budget in (2.0, 0.02))
    for policy in (free, held):
        policy.learn([Step(x, prior, rewards, 1, None, None)], 60)
    odds = np.exp(prior) / np.exp(prior).sum()
    apart = []
    for policy in (free, held):
        pi = np.exp(policy.log_odds(x, prior))
        pi /= pi.sum()
        apart.append(float((pi * np.log(pi / odds)).sum()))
    assert int(free.log_odds(x, prior).argmax()) == 1
    assert apart[1] < 0.1 < apart[0]


@pytest.fixture(scope="module")
def room():
    return RankedRoom(made(2))


def test_drawn_by_the_plan_it_is_the_package_s_plan(room):
    world, moment = room.world, room.world.begin()
    for _ in range(2):
        planned = world.plan(moment)
        drawn = draw_set(Draws(room, moment, np.random.default_rng(0)), lambda told, odds, rng: int(odds.argmax()))
        np.testing.assert_array_equal(drawn, planned)
        moment, worth = world.ask(moment, planned)
    before = replace(moment, known=KnownLabels(*(part[: -len(planned)] for part in vars(moment.known).values())))
    assert right(world, before, planned) == pytest.approx(100 * worth)


def test_what_is_known_of_an_image_has_no_order_of_classes(room):
    world, order = room.world, np.random.default_rng(1).permutation(room.world.n_classes)
    moment, _ = world.ask(world.begin(), world.plan(world.begin()))
    place = np.argsort(order).astype(np.int32)  # class c is called place[c]
    named = TextState(world.teacher.features[order], world.teacher.logit_scale)
    other = RankedRoom(replace(world, teacher=named, truth=place[world.truth]))
    known = KnownLabels(moment.known.positions, place[moment.known.labels], moment.known.rounds)
    moved = replace(moment, known=known, probabilities=moment.probabilities[:, order])
    rows = np.arange(40)
    told = []
    for place_, when in ((room, moment), (other, moved)):
        draws = Draws(place_, when, np.random.default_rng(0))
        draws.take(50)
        told.append(draws.told(rows))
    np.testing.assert_allclose(told[0][0], told[1][0], atol=2e-3)
    np.testing.assert_allclose(told[0][1], told[1][1], atol=1e-3)
    assert told[0][1].max() == SHARPNESS


def test_rewards_are_what_the_round_would_have_lacked(room, tmp_path):
    played = play(room.world, 1, 3, n_sets=3)
    keep(tmp_path / "one.npz", played)
    again = kept(tmp_path / "one.npz")
    assert again.image_rounds == played.image_rounds == [1] * room.world.n_classes
    images, sets = scales([again])
    steps, whole = image_steps([again], images, prior=True), set_steps([again], sets)
    paid = [abs(step.rewards[step.taken]) for step in steps]
    assert len(paid) == 8  # of so many images the round is played again without them
    assert np.mean(paid) == pytest.approx(1.0)
    assert all(np.isfinite(step.rewards).sum() == 1 for step in steps)
    assert steps[0].next_x is not None
    assert steps[-1].next_x is None or len(played.images) > 8
    assert whole[0].rewards[0] == 0.0  # the plan's set, which the others are measured by
    assert np.abs(whole[0].rewards).mean() == pytest.approx(1.0)
    assert by_plan(steps[0].x, steps[0].prior, np.random.default_rng(0)) < len(steps[0].prior)


def test_the_table_s_intervals_are_student_s_over_pools():
    draw = np.random.default_rng(0)
    found = {
        f"pool-{i}": {name: draw.uniform(50, 90, size=(2, 8)).tolist() for name in ("plan", *JUDGED)} for i in range(4)
    }
    gains = [np.mean(np.array(pool["scratch"]) - np.array(pool["plan"])) for pool in found.values()]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(gains), scale=stats.sem(gains))
    line = next(line for line in table(found).splitlines() if line.startswith("| scratch"))
    assert line.split("|")[2].strip() == f"{np.mean(gains):+.2f} [{low:+.2f}, {high:+.2f}]"
