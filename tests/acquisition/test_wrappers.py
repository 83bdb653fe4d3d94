"""The balancer and the subsampling wrapper."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from psp_ray.acquisition import STRATEGIES, create
from psp_ray.acquisition.wrappers.audit import with_audit
from psp_ray.acquisition.wrappers.pcb import balanced, balanced_as_released
from psp_ray.acquisition.wrappers.sub import intensities
from psp_ray.config.acquisition import AuditSettings
from psp_ray.config.config import Config
from psp_ray.posterior.inclusion import inclusion_probabilities
from tests.policy.worlds import World


def test_balanced_by_hand():
    predicted = np.array([0, 0, 1, 0, 2, 1])
    counts = np.array([1, 0, 0, 0])  # class 3 has no candidate
    # 1 (tie of 1, 2, 3: lower), 2, then 3 is least but empty: 0 and 1 have one each, lower first, then 1, then 0
    assert balanced(predicted, counts, 6).tolist() == [2, 4, 0, 5, 1, 3]
    assert counts.tolist() == [1, 0, 0, 0]


def test_released_gives_up_when_the_least_labeled_class_runs_out():
    predicted = np.array([0, 0, 1, 0, 2, 1])
    counts = np.array([1, 0, 0, 0])
    # 1 and 2 by the first order, then class 3 is least for ever: the rest comes in the second order
    first, second = np.array([5, 4, 3, 2, 1, 0]), np.array([4, 1, 0, 2, 5, 3])
    assert balanced_as_released(predicted, counts, 6, first, second).tolist() == [5, 4, 1, 0, 2, 3]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 8))
def test_balancers_choose_distinct_and_agree_while_no_class_runs_out(seed, m, n_classes):
    rng = np.random.default_rng(seed)
    predicted = rng.integers(n_classes, size=m)
    counts = rng.integers(4, size=n_classes)
    n_query = int(rng.integers(1, m + 1))
    intent = balanced(predicted, counts, n_query)
    released = balanced_as_released(predicted, counts, n_query, np.arange(m), rng.permutation(m))
    for chosen in (intent, released):
        assert len(set(chosen.tolist())) == n_query
    running = counts.copy()
    for a, b in zip(intent, released, strict=True):
        least = int(np.argmin(running))
        if predicted[a] != least:
            break
        assert a == b
        running[least] += 1


def test_intent_levels_the_counts_as_far_as_candidates_allow():
    rng = np.random.default_rng(0)
    predicted, counts = rng.integers(10, size=200), rng.integers(5, size=10)
    chosen = balanced(predicted, counts, 50)
    after = counts + np.bincount(predicted[chosen], minlength=10)
    assert after.max() - after.min() <= 1


def build(name, world, **values):
    return create(name, world.pool, Config(**values).policy)


def test_pcb_s_first_round_is_random_and_later_ones_are_balanced_candidates():
    world = World(n=200, n_classes=5, spread=1.0)
    state = world.state()
    random = build("random", world).propose(state)
    np.testing.assert_array_equal(build("badge+pcb", world).propose(state).positions, random.positions)
    labeled = np.arange(6)
    labels = np.array([0, 0, 1, 1, 2, 3])
    state = world.state(2, 9, np.arange(6, 200), labeled, labels)
    proposal = build("badge+pcb", world, pcb_fraction=0.2).propose(state)
    candidates = build("badge", world).propose(world.state(2, 40, np.arange(6, 200), labeled, labels)).positions
    assert set(proposal.positions) <= set(candidates)
    predicted = (world.features[proposal.positions] @ world.text.T).argmax(axis=1)
    np.testing.assert_array_equal(np.bincount(labels, minlength=5) + np.bincount(predicted, minlength=5), [3] * 5)
    assert np.isnan(proposal.log_prob).all()


@pytest.mark.parametrize("released", [True, False])
def test_released_and_intent_part_where_a_class_has_no_candidate(released):
    """The prompt never says class 4: released draws the whole round at random, intent levels the others."""
    world = World(n=200, n_classes=5)
    world.text[4] = -world.text[4]
    labeled = np.arange(12)
    state = world.state(2, 8, np.arange(12, 200), labeled, np.repeat([0, 1, 2, 3], 3), text=world.text)
    assert not ((world.features @ world.text.T).argmax(axis=1) == 4).any()
    proposal = build("random+pcb", world, pcb="released" if released else "intent", pcb_fraction=1.0).propose(state)
    predicted = (world.features[proposal.positions] @ world.text.T).argmax(axis=1)
    assert (np.bincount(predicted, minlength=4)[:4] == 2).all() != released


def test_pcb_s_first_round_may_be_the_strategy_s():
    world = World(n=200)
    balanced_first = build("entropy+pcb", world, pcb_first_round="strategy").propose(world.state(n_query=5))
    predicted = (world.features[balanced_first.positions] @ world.text.T).argmax(axis=1)
    assert sorted(predicted) == [0, 1, 2, 3, 4]


def test_pcb_asks_for_a_share_of_the_whole_pool():
    world = World(n=200)
    asked = []

    class Spy:
        name = "spy"

        def __init__(self, pool, settings=None):
            self.inner = create("random", pool)

        def propose(self, state):
            asked.append(state.n_query)
            return self.inner.propose(state)

    from psp_ray.acquisition.wrappers.pcb import PseudoClassBalance
    from psp_ray.config.acquisition import PCBSettings

    for left, n_query, expected in ((190, 5, 20), (15, 5, 15), (190, 30, 30)):
        state = world.state(2, n_query, np.arange(10, 10 + left), np.arange(10), world.truth[:10])
        PseudoClassBalance(Spy(world.pool), world.pool, PCBSettings()).propose(state)
        assert asked[-1] == expected


class Learner:
    """Draws like `random` and remembers what it is told."""

    name = "learner"

    def __init__(self, pool, settings=None):
        self.inner = create("random", pool)
        self.told = []

    def propose(self, state):
        return self.inner.propose(state)

    def observe(self, feedback):
        self.told.append(feedback)
        return self.inner.observe(feedback)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.fixture
def learner():
    with STRATEGIES.temporary():
        STRATEGIES.register("learner")(Learner)
        yield "learner"


def test_a_learner_behind_the_balancer_is_told_its_own_odds(learner):
    world = World(n=100)
    strategy = build(learner + "+pcb", world)
    state = world.state(2, 5, np.arange(10, 100), np.arange(10), world.truth[:10])
    proposal = strategy.propose(state)
    strategy.observe(world.feedback(state, proposal))
    told = strategy.inner.told[0].proposal
    np.testing.assert_array_equal(told.positions, proposal.positions)
    np.testing.assert_allclose(told.log_prob, -np.log(90))
    assert np.isfinite(told.ms_indicator)


def test_a_learner_behind_a_part_sees_the_part_as_its_pool(learner):
    world = World(n=100)
    strategy = build(learner + "+sub", world, sub_size=30)
    state = world.state(2, 5, np.arange(10, 100), np.arange(10), world.truth[:10])
    proposal = strategy.propose(state)
    strategy.observe(world.feedback(state, proposal))
    told = strategy.inner.told[0]
    assert len(told.state.unlabeled) == 30
    assert set(told.state.unlabeled) <= set(state.unlabeled)
    np.testing.assert_allclose(told.proposal.log_prob, -np.log(30))
    np.testing.assert_array_equal(
        np.sort(np.concatenate([told.unlabeled_next, proposal.positions])), told.state.unlabeled
    )


def test_sub_passes_a_small_pool_on_and_draws_another_part_each_round():
    world = World(n=100)
    a, b = (build(name, world, sub_size=100).propose(world.state()) for name in ("entropy", "entropy+sub"))
    np.testing.assert_array_equal(a.positions, b.positions)
    strategy = build("entropy+sub", world, sub_size=20)
    parts = [set(strategy.part(world.state(round)).tolist()) for round in (1, 2)]
    assert [len(part) for part in parts] == [20, 20]
    assert parts[0] != parts[1]
    assert len(build("entropy+sub", world, sub_size=2).propose(world.state(n_query=7)).positions) == 7


def test_intensities_are_the_inverse_of_inclusion():
    q = np.array([0.001, 0.3, 0.999])
    np.testing.assert_allclose(inclusion_probabilities(intensities(q), 0.0), q)


@pytest.mark.parametrize("name", ["random+sub", "el2n-policy+sub"])
def test_estimates_from_a_part_are_unbiased_for_the_pool(name):
    world = World(n=40)
    truth = np.random.default_rng(0).random(40)
    sums = []
    for round in range(1500):
        proposal = build(name, world, sub_size=16).propose(world.state(round, n_query=6))
        q = inclusion_probabilities(proposal.log_prob, proposal.next_key)
        assert (q <= 16 / 40 + 1e-12).all()
        sums.append((truth[proposal.positions] / q).sum() / 40)
    assert abs(np.mean(sums) - truth.mean()) < 4 * np.std(sums) / np.sqrt(1500)


def test_no_odds_stay_no_odds():
    world = World(n=60)
    assert np.isnan(build("margin+sub", world, sub_size=30).propose(world.state()).log_prob).all()


def test_audit_draws_its_share_by_chance_and_leaves_the_rest_to_the_strategy():
    world = World(n=100)
    state = world.state(n_query=10)
    proposal = build("entropy+audit", world, audit_fraction=0.3).propose(state)
    assert proposal.n_audit == 3
    drawn, chosen = proposal.positions[:3], proposal.positions[3:]
    np.testing.assert_allclose(proposal.log_prob[:3], -np.log(100))
    assert np.isnan(proposal.log_prob[3:]).all()
    rest = world.state(n_query=7, unlabeled=np.setdiff1d(state.unlabeled, drawn))
    np.testing.assert_array_equal(chosen, build("entropy", world).propose(rest).positions)


def test_the_audit_is_one_sequence_whatever_the_strategy_asks():
    """Every round's draws are the first of the sequence that nobody has asked; all of it in the end is a shuffle."""
    world = World(n=30)
    audit = build("entropy+audit", world, audit_fraction=0.5)
    whole = build("entropy+audit", world, audit_fraction=0.99).propose(world.state(n_query=30)).positions
    assert sorted(whole) == list(range(30))
    assert list(whole) != list(range(30))
    asked = []
    for round in range(1, 6):
        unlabeled = np.setdiff1d(np.arange(30), asked)
        state = world.state(round, n_query=4, unlabeled=unlabeled)
        proposal = audit.propose(state)
        drawn = proposal.positions[: proposal.n_audit]
        np.testing.assert_array_equal(drawn, [p for p in whole if p not in asked][:2])
        asked += proposal.positions.tolist()


@pytest.mark.parametrize(("share", "n_query"), [(0.03, 10), (0.1, 7), (0.25, 3), (0.5, 1), (0.0, 5)])
def test_the_share_comes_out_right_over_the_rounds(share, n_query):
    world = World(n=400)
    drawn = 0
    for round in range(1, 21):
        proposal = build("entropy+audit", world, audit_fraction=share).propose(world.state(round, n_query=n_query))
        assert len(proposal.positions) == n_query
        drawn += proposal.n_audit
        assert abs(drawn - share * n_query * round) <= 0.5


def test_every_sample_is_as_likely_to_be_drawn():
    world = World(n=20)
    counts = np.zeros(20)
    for seed in range(500):
        proposal = build("entropy+audit", world, audit_fraction=0.5).propose(world.state(n_query=8, seed=seed))
        counts[proposal.positions[: proposal.n_audit]] += 1
    assert chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(
    ("strategy", "fraction", "run"),
    [
        ("vssp", 0.1, "vssp+audit"),
        ("vssp+sub", 0.1, "vssp+sub+audit"),
        ("vssp+audit", 0.1, "vssp+audit"),
        ("vssp", 0.0, "vssp"),
        ("badge", 0.1, "badge"),
        ("random", 0.1, "random"),
    ],
)
def test_vssp_audits_without_being_told(strategy, fraction, run):
    assert with_audit(strategy, AuditSettings(audit_fraction=fraction)) == run


def test_random_is_all_chance():
    assert build("random", World(n=20)).propose(World(n=20).state(n_query=5)).n_audit == 5
    assert build("el2n-policy", World(n=20)).propose(World(n=20).state(n_query=5)).n_audit == 0


def test_vssp_behind_an_audit_learns_from_its_own_part():
    world = World(n=60)
    strategy = build("vssp+audit", world, audit_fraction=0.4)
    state = world.state(n_query=5)
    proposal = strategy.propose(state)
    assert np.isfinite(proposal.log_prob).all()
    assert np.isfinite(proposal.ms_indicator)
    assert np.isfinite(strategy.observe(world.feedback(state, proposal)).reward)


def test_a_learner_behind_an_audit_is_told_of_its_own_choices_only(learner):
    world = World(n=100)
    strategy = build(learner + "+audit", world, audit_fraction=0.4)
    state = world.state(n_query=5)
    proposal = strategy.propose(state)
    strategy.observe(world.feedback(state, proposal))
    told = strategy.inner.told[0]
    np.testing.assert_array_equal(told.proposal.positions, proposal.positions[2:])
    assert len(told.labels) == len(told.outcome.gap_new) == 3
    assert not np.isin(proposal.positions[:2], told.state.unlabeled).any()
