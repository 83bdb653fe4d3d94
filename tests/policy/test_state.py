"""States and networks against a materialized gradient embedding and torch's distributions."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import softmax
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from psp_ray.config.policy import PolicySettings
from psp_ray.core.errors import DatasetError
from psp_ray.core.records import TextState
from psp_ray.policy.networks import Actor, BilinearLayer, Critic, squashed_log_prob
from psp_ray.policy.state import (
    Normalization,
    PoolView,
    StateReader,
    class_factor,
    squared_distances,
    uncertainty_features,
)
from tests.helpers import ArrayPool
from tests.policy.worlds import World

PLAIN = PolicySettings(centered=False, state_features=False, pooled_context=False)


def view_of(world, unlabeled=None, labeled=(), labels=()):
    unlabeled = np.arange(world.n) if unlabeled is None else np.asarray(unlabeled)
    return PoolView(TextState(world.text, 50.0), unlabeled, np.asarray(labeled, np.int64), np.asarray(labels, np.int32))


def materialized(world, rows):
    """The gradient embedding of the note by its two cases, (m, C * d)."""
    f = world.pool.rows(np.asarray(rows)).astype(np.float64)
    cos = f @ world.text.T.astype(np.float64)
    s = np.zeros((len(f), world.n_classes, f.shape[1]))
    for i in range(len(f)):
        for c in range(world.n_classes):
            factor = 1 - cos[i, c] if c == cos[i].argmax() else -cos[i, c]
            s[i, c] = f[i] * factor
    return s.reshape(len(f), -1)


def test_factors_are_the_gradient_embedding():
    world = World(n=40)
    block = StateReader(world.pool, PLAIN).read(view_of(world), 0)
    outer = (block.w[:, :, None] * block.f[:, None, :]).flatten(1).numpy()
    np.testing.assert_allclose(outer, materialized(world, range(40)), atol=1e-6)


def test_distances_by_factors_equal_those_of_the_embedding():
    world = World(n=40)
    block = StateReader(world.pool, PLAIN).read(view_of(world), 0)
    f, w = block.f.double(), block.w.double()
    s = materialized(world, range(40))
    result = squared_distances(f, w, f[:7], w[:7]).numpy()
    np.testing.assert_allclose(result, cdist(s, s[:7], "sqeuclidean"), atol=1e-6)


def test_bilinear_layer_is_linear_in_the_materialized_embedding():
    world = World(n=30)
    layer = BilinearLayer(16, 5, 0, PLAIN, torch.Generator().manual_seed(0)).double()
    f = torch.from_numpy(world.pool.rows(np.arange(30)).astype(np.float64))
    w, _ = class_factor(f, torch.from_numpy(world.text.astype(np.float64)))
    rank_f, rank_w = len(layer.image), len(layer.classes)
    core = layer.core.weight.view(-1, rank_f, rank_w)
    weight = torch.einsum("hpq,pd,qc->hcd", core, layer.image, layer.classes).flatten(1)
    expected = torch.from_numpy(materialized(world, range(30))) @ weight.T + layer.core.bias
    torch.testing.assert_close(layer(f, w, torch.zeros(30, 0)), expected, atol=1e-10, rtol=1e-10)


def test_gradients_of_the_bilinear_layer_equal_the_materialized_ones():
    world = World(n=30)
    layer = BilinearLayer(16, 5, 0, PLAIN, torch.Generator().manual_seed(0)).double()
    f = torch.from_numpy(world.pool.rows(np.arange(30)).astype(np.float64))
    w, _ = class_factor(f, torch.from_numpy(world.text.astype(np.float64)))
    (layer(f, w, torch.zeros(30, 0)) ** 2).sum().backward()
    factored = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    core = layer.core.weight.view(-1, len(layer.image), len(layer.classes))
    weight = torch.einsum("hpq,pd,qc->hcd", core, layer.image, layer.classes).flatten(1)
    ((torch.from_numpy(materialized(world, range(30))) @ weight.T + layer.core.bias) ** 2).sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, factored[name], atol=1e-6, rtol=1e-6)


def test_centered_layer_equals_a_bilinear_form_of_the_shifted_factors():
    world = World(n=30)
    layer = BilinearLayer(16, 5, 0, PolicySettings(), torch.Generator().manual_seed(0)).double()
    f = torch.from_numpy(world.pool.rows(np.arange(30)).astype(np.float64))
    w, _ = class_factor(f, torch.from_numpy(world.text.astype(np.float64)))
    mean_f, mean_w = f.mean(0), w.mean(0)
    layer.normalize(Normalization(mean_f.numpy(), mean_w.numpy(), 0.5, 2.0))
    left = torch.cat([(f - mean_f) / 0.5 @ layer.image.T, torch.ones(30, 1)], 1)
    right = torch.cat([(w - mean_w) / 2.0 @ layer.classes.T, torch.ones(30, 1)], 1)
    expected = layer.core(torch.einsum("ip,iq->ipq", left, right).flatten(1))
    torch.testing.assert_close(layer(f, w, torch.zeros(30, 0)), expected, atol=1e-9, rtol=1e-9)


def test_tanh_log_prob_equals_torchs_transformed_distribution():
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(200, generator=generator, dtype=torch.float64) for _ in range(3))
    z = mean + log_std.exp() * noise
    reference = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    keep = z.abs() < 5  # further out the reference loses its digits
    expected = reference.log_prob(torch.tanh(z))[keep]
    torch.testing.assert_close(squashed_log_prob(z, noise, log_std)[keep], expected, atol=1e-7, rtol=1e-7)
    far = squashed_log_prob(torch.tensor([40.0, -300.0]), torch.zeros(2), torch.zeros(2))
    expected = -0.9189385 - 2 * (np.log(2) - np.array([40.0, 300.0]))
    np.testing.assert_allclose(far.numpy(), expected, rtol=1e-5)


def test_uncertainty_features_equal_their_definitions():
    cos = np.random.default_rng(0).uniform(-0.2, 0.4, size=(20, 6))
    p = softmax(30 * cos, axis=1)
    top, chance = -np.sort(-cos, axis=1), -np.sort(-p, axis=1)
    expected = np.stack(
        [
            top[:, 0],
            top[:, 0] - top[:, 1],
            chance[:, 0],
            chance[:, 0] - chance[:, 1],
            -(p * np.log(p)).sum(1) / np.log(6),
        ],
        axis=1,
    )
    np.testing.assert_allclose(uncertainty_features(torch.from_numpy(cos), 30.0).numpy(), expected, atol=1e-9)


def test_extra_inputs_are_standardized_over_the_unlabeled_and_bounded():
    world = World(n=200, block_size=64)
    unlabeled = np.setdiff1d(np.arange(200), np.arange(50, 80))
    view = view_of(world, unlabeled, labeled=np.arange(50, 80), labels=world.truth[50:80])
    reader = StateReader(world.pool, PolicySettings())
    extra = torch.cat([reader.read(view, b).extra for b in reader.blocks(unlabeled)])
    assert extra.shape == (170, 10)
    unclipped = (extra.abs() < 6).all(0)
    np.testing.assert_allclose(extra.mean(0)[unclipped].numpy(), 0, atol=1e-3)
    np.testing.assert_allclose(extra.std(0, correction=0)[unclipped].numpy(), 1, atol=1e-3)
    assert float(extra.abs().max()) <= 6


def test_relations_to_the_labeled_know_the_class_counts():
    world = World(n=200)
    labels = np.zeros(9, np.int32)  # only class 0 was bought
    view = view_of(world, np.arange(9, 200), labeled=np.arange(9), labels=labels)
    block = StateReader(world.pool, PolicySettings()).read(view, 0)
    guess = (block.f @ torch.from_numpy(world.text).T).argmax(1)
    counts = block.extra[:, 9]
    assert float(counts[guess == 0].min()) > float(counts[guess != 0].max())


def test_states_do_not_depend_on_the_cache():
    world = World(n=200, block_size=64)
    view = view_of(world, np.arange(0, 200, 2))
    kept, none = StateReader(world.pool, PolicySettings()), StateReader(world.pool, PolicySettings(), cache_bytes=0)
    for _ in range(2):
        for index in kept.blocks(view.unlabeled):
            a, b = kept.read(view, index), none.read(view, index)
            assert torch.equal(a.f, b.f)
            assert torch.equal(a.w, b.w)
            assert torch.equal(a.extra, b.extra)
    assert kept.held_bytes > 0
    assert none.held_bytes == 0
    tight = StateReader(world.pool, PolicySettings(), cache_bytes=kept.held_bytes // 2)
    for index in tight.blocks(view.unlabeled):
        tight.read(view, index)
    assert 0 < tight.held_bytes <= tight.cache_bytes


@pytest.mark.parametrize("prior", ["entropy", "margin"])
def test_prior_prefers_the_uncertain(prior):
    world = World(n=200)
    settings = PolicySettings(prior=prior, prior_weight=2.0, state_features=False, pooled_context=False)
    block = StateReader(world.pool, settings).read(view_of(world), 0)
    p = softmax(50 * (block.f.numpy() @ world.text.T), axis=1)
    top = -np.sort(-p, axis=1)
    measure = -(p * np.log(p)).sum(1) if prior == "entropy" else -(top[:, 0] - top[:, 1])
    assert np.corrcoef(block.prior, measure)[0, 1] > 0.95
    assert block.prior.std() == pytest.approx(2.0, rel=0.2)
    assert block.extra.shape[1] == 0


def test_not_finite_features_are_named():
    features = World(n=20).features.copy()
    features[13, 2] = np.nan
    world = World(n=20)
    with pytest.raises(DatasetError, match=r"pool sample 13 .* featurize again"):
        StateReader(ArrayPool(features), PLAIN).read(view_of(world), 0)


def test_text_of_another_model_is_refused():
    world = World(n=20)
    view = PoolView(
        TextState(np.ones((5, 8), np.float32), 1.0), np.arange(20), np.zeros(0, np.int64), np.zeros(0, np.int32)
    )
    with pytest.raises(DatasetError, match="width 8 and image features of width 16"):
        StateReader(world.pool, PLAIN).read(view, 0)


def test_untrained_actor_and_critics_start_small_and_seeded():
    world = World(n=100)
    settings = PolicySettings()
    reader = StateReader(world.pool, settings)
    block = reader.read(view_of(world), 0)
    actors = [Actor(16, 5, reader.n_extra, settings, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    latents = [actor.latent(block)[0] for actor in actors]
    assert torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])
    assert float(latents[0].detach().abs().max()) < 0.1
    critic = Critic(16, 5, reader.n_extra, settings, torch.Generator().manual_seed(0), action=True)
    low, high = critic(block, torch.full((100,), -1.0)), critic(block, torch.full((100,), 1.0))
    assert float((high - low).detach().abs().mean()) > 1e-3  # the action is not drowned by the state


def test_log_std_stays_within_its_bounds():
    world = World(n=50)
    settings = PolicySettings(log_std_min=-3.0, log_std_max=0.5)
    reader = StateReader(world.pool, settings)
    block = reader.read(view_of(world), 0)
    actor = Actor(16, 5, reader.n_extra, settings, torch.Generator().manual_seed(0))
    with torch.no_grad():
        actor.network.last.weight.mul_(1e6)
    log_std = actor.latent(block)[1]
    assert -3.0 <= float(log_std.min().detach()) < float(log_std.max().detach()) <= 0.5
