"""The reward by hand, and the replay buffer's round trip."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial

from psp_ray.config.policy import PSP_PAPER, PolicySettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import LearnOutcome, Proposal, TextState
from psp_ray.policy.replay import ReplayBuffer, Transition
from psp_ray.policy.reward import indicator_factor, reward

LOG_A = np.log([0.3, 0.1, 0.05])
PROPOSAL = Proposal(np.array([4, 2, 7]), LOG_A)
PAPER = PolicySettings(**PSP_PAPER)
AFTER = {"reward_gap": "after"}


def outcome(new=(0.1, 0.0, 0.2), pseudo=(0.02, 0.04), new_before=(0.3, 0.2, 0.1), pseudo_before=(0.1, 0.1)):
    arrays = [np.array(a, np.float32) for a in (new, pseudo, new_before, pseudo_before)]
    text = TextState(np.ones((2, 2), np.float32), 1.0)
    return LearnOutcome(text, np.zeros((1, 1), np.float32), *arrays, train_loss=0.0, steps=1, restarts=0)


def log_pmf(a, n):
    g = np.zeros(n, int)
    g[:3] = 1
    rest = (1 - a.sum()) / (n - 3)
    return multinomial.logpmf(g, 3, np.concatenate([a, np.full(n - 3, rest)]))


def test_paper_reward_is_the_notes_formula():
    expected = log_pmf(np.exp(LOG_A), 10) * (0.1 + 0.7 * 0.03)
    assert reward(PROPOSAL, 10, outcome(), PAPER).total == pytest.approx(expected, rel=1e-6)


def test_normalized_reward_divides_by_the_uniform_indicators_size():
    factor = log_pmf(np.exp(LOG_A), 10) / abs(log_pmf(np.full(3, 0.1), 10))
    assert factor < 0
    assert reward(PROPOSAL, 10, outcome(), PolicySettings(**AFTER)).total == pytest.approx(factor * 0.121, rel=1e-6)


@pytest.mark.parametrize("kind", ["multinomial", "plackett-luce"])
def test_normalized_indicator_of_a_uniform_policy_is_minus_one(kind):
    uniform = Proposal(np.arange(3), np.full(3, -np.log(10)))
    assert indicator_factor(uniform, 10, PolicySettings(ms=kind)) == pytest.approx(-1.0)
    single = Proposal(np.arange(1), np.zeros(1))
    assert indicator_factor(single, 1, PolicySettings(ms=kind)) == -1.0


def test_without_indicator_the_factor_is_minus_one():
    settings = PolicySettings(ms="none", beta=0.5, **AFTER)
    assert reward(PROPOSAL, 10, outcome(), settings).total == pytest.approx(-(0.1 + 0.5 * 0.03), rel=1e-6)


def test_gaps_before_and_closed():
    no_ms = {"ms": "none", "beta": 1.0}
    before = reward(PROPOSAL, 10, outcome(), PolicySettings(reward_gap="before", **no_ms))
    assert before.total == pytest.approx(0.2 + 0.1, rel=1e-6)  # there was so much to learn
    closed = reward(PROPOSAL, 10, outcome(), PolicySettings(reward_gap="closed", **no_ms))
    assert closed.total == pytest.approx(0.1 + 0.07, rel=1e-6)  # closing a gap is paid


SIZES = st.floats(0.0, 2.0, width=32)
GAPS = st.tuples(SIZES, SIZES, SIZES).map(np.array)


def helpfulness(form, after, before):
    """What a sample brought, by the words of `reward_gap`."""
    return {"after": -after, "before": before, "closed": before - after}[form]


@st.composite
def worlds(draw):
    """A pool, a policy over it, gaps and settings."""
    n = draw(st.integers(4, 500))
    a = np.array([draw(st.floats(1e-4, 0.2)) for _ in range(3)])
    settings = PolicySettings(
        reward_gap=draw(st.sampled_from(["after", "before", "closed"])),
        reward_scaling=draw(st.sampled_from(["normalized", "paper"])),
        ms=draw(st.sampled_from(["multinomial", "plackett-luce"])),
        beta=draw(st.sampled_from([0.0, 0.7])),
    )
    return n, np.log(a), settings, draw(GAPS), draw(GAPS)


@given(worlds(), st.integers(0, 2), st.floats(1.05, 1.5))
def test_a_more_probable_draw_of_helpful_samples_is_paid_more_and_of_harmful_ones_less(world, which, factor):
    n, log_a, settings, after, before = world
    form = settings.reward_gap
    likelier = log_a.copy()
    likelier[which] += np.log(factor)
    draws = [Proposal(np.arange(3), log) for log in (log_a, likelier)]
    made = outcome(after, after, before, before)
    first, second = (reward(draw, n, made, settings).total for draw in draws)
    good = helpfulness(form, after, before).mean()
    if form == "after":
        assert second > first or good == 0  # an imperfect student is a loss, and the more the less it was meant
    elif abs(good) > 1e-6:
        assert np.sign(second - first) == np.sign(good)


@given(worlds(), st.integers(0, 2), st.floats(0.01, 1.0))
def test_a_more_helpful_sample_is_paid_more(world, which, more):
    n, log_a, settings, after, before = world
    proposal, raised = Proposal(np.arange(3), log_a), more * (np.arange(3) == which)
    less = outcome(after + raised, after, before, before)  # the student got this one less right
    if settings.reward_gap == "before":
        less = outcome(after, after, before, before)
        made = outcome(after, after, before + raised, before)
    else:
        made = outcome(after, after, before, before)
    assert reward(proposal, n, made, settings).total > reward(proposal, n, less, settings).total
    own = reward(proposal, n, made, settings).own
    assert own[which] > reward(proposal, n, less, settings).own[which]


@given(worlds())
def test_a_gain_keeps_its_sign_and_uniform_selection_its_size(world):
    n, log_a, settings, after, before = world
    good = helpfulness(settings.reward_gap, after, before).mean()
    paid = reward(Proposal(np.arange(3), log_a), n, outcome(after, (), before, ()), settings).total
    assert np.sign(paid) == np.sign(good) or abs(good) < 1e-6
    plain = Proposal(np.arange(3), np.full(3, -np.log(n)))
    if settings.reward_scaling == "normalized":
        assert reward(plain, n, outcome(after, (), before, ()), settings).total == pytest.approx(good, abs=1e-6)


def test_no_pseudo_labels_leave_the_second_term_out():
    bare = outcome(pseudo=(), pseudo_before=())
    assert reward(PROPOSAL, 10, bare, PolicySettings(ms="none", **AFTER)).total == pytest.approx(-0.1, rel=1e-6)


def test_own_rewards_average_to_the_total():
    paid = reward(PROPOSAL, 10, outcome(), PolicySettings(**AFTER))
    assert paid.own.mean() == pytest.approx(paid.total)
    assert paid.own.argmax() == 1  # the sample without a gap


@pytest.mark.parametrize("bad", [{"new": (0.1, 0.2)}, {"new": (0.1, np.nan, 0.2)}, {"pseudo": (np.inf, 0.0)}])
def test_gaps_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match="gaps"):
        reward(PROPOSAL, 10, outcome(**bad), PolicySettings(**AFTER))


def transition(round=1, reward=-0.5, own=(-0.4, -0.6)):
    text = TextState(np.random.default_rng(round).normal(size=(3, 4)).astype(np.float32), 20.0)
    return Transition(
        round=round,
        text=text,
        next_text=TextState(text.features + 1, 21.0),
        unlabeled=np.array([0, 3, 4, 9, 18]),
        removed=np.array([3, 18]),
        u=np.linspace(-1, 1, 5).astype(np.float32),
        normalizer=1.5,
        bought=np.array([18, 3]),
        bought_labels=np.array([2, 0], np.int32),
        own=np.array(own),
        labeled=np.array([7]),
        labels=np.array([1], np.int32),
        reward=reward,
        final=round == 2,
        anchors=np.array([3, 9]),
        anchor_odds=np.array([5.0, 4.5]),
    )


def test_replay_survives_its_state_dict_and_keeps_the_newest():
    replay = ReplayBuffer(19, capacity=2)
    for number in (1, 2, 3):
        replay.add(transition(number))
    assert [t.round for t in replay.transitions] == [2, 3]
    state = replay.state_dict()
    assert state["replay.0.unlabeled"].nbytes == 3
    other = ReplayBuffer(19, capacity=2)
    other.load_state_dict({k: np.array(v) for k, v in state.items()})
    for mine, theirs in zip(replay.transitions, other.transitions, strict=True):
        for name, value in vars(mine).items():
            found = getattr(theirs, name)
            if isinstance(value, TextState):
                np.testing.assert_array_equal(value.features, found.features)
                assert value.logit_scale == found.logit_scale
            else:
                np.testing.assert_array_equal(value, found)
                assert type(value) is type(found)


def test_next_state_of_a_transition():
    item = transition()
    np.testing.assert_array_equal(item.unlabeled_next, [0, 4, 9])
    labeled, labels = item.labeled_next
    np.testing.assert_array_equal(labeled, [7, 18, 3])
    np.testing.assert_array_equal(labels, [1, 2, 0])


def test_automatic_scale_and_shift():
    replay = ReplayBuffer(19, 8)
    assert (replay.scale(), replay.mean_reward()) == (1.0, 0.0)
    replay.add(transition(1, -0.5))
    replay.add(transition(2, -0.1, own=(-0.1, -0.1)))
    assert replay.scale() == pytest.approx(1 / 0.3)
    assert replay.mean_reward() == pytest.approx(-0.3)
    tiny = ReplayBuffer(19, 8)
    tiny.add(transition(1, -3e-8, own=(-2e-8, -4e-8)))
    assert tiny.scale() == tiny.scale(own=True) == 1.0  # rounding noise is not blown up
    assert replay.scale(own=True) == pytest.approx(1 / np.sqrt(np.mean([0.01, 0.01, 0, 0])))


@pytest.mark.parametrize(
    "bad",
    [
        {"kappa": 0},
        {"align": "dtw"},
        {"alpha": -1.0},
        {"log_std_min": 3.0},
        {"reward_form": "per-sample", "critic": "scalar"},
        {"unknown": 1},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError):
        PolicySettings(**bad)


def test_every_setting_is_described():
    assert all(field.description for field in PolicySettings.model_fields.values())
    assert set(PSP_PAPER) <= set(PolicySettings.model_fields)
