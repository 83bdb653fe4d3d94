"""The evidence-weighed posterior: against a plain reading of its definition, and in worlds whose truth is known."""

import numpy as np
import pytest
from scipy import special, stats

from benchmarks.kinds_of_pools import make
from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.records import TextState
from psp_ray.neighbors.graph import class_masses, knn_graph
from psp_ray.neighbors.space import ImageSpace
from psp_ray.posterior import evidence as evidence_module
from psp_ray.posterior.calibration import reliability
from psp_ray.posterior.evidence import Bought, Evidence
from psp_ray.posterior.opinions import class_means, fitted_scale, graph_opinion, graph_weight
from tests.helpers import ArrayPool
from tests.selftrain.conftest import make_pool, unit

OPTIONS = SelfTrainingSettings()


def make_world(teacher=0.3, n=600, n_classes=6, d=24, noise=0.14, seed=0, scale=12.0, block_size=256):
    """A pool of clusters, and a teacher whose class embeddings are off by `teacher` times a random direction."""
    draw = np.random.default_rng(seed)
    centers = unit(draw.normal(size=(n_classes, d)))
    truth = draw.integers(0, n_classes, n).astype(np.int32)
    features = unit(centers[truth] + noise * draw.normal(size=(n, d)))
    text = unit(centers + teacher * unit(draw.normal(size=centers.shape))).astype(np.float32)
    return ArrayPool(features, block_size=block_size), TextState(text, scale), truth


def purchases(truth, rounds, per_round, seed=1):
    order = np.random.default_rng(seed).permutation(len(truth))[: rounds * per_round].astype(np.int64)
    return Bought(order, truth[order], np.repeat(np.arange(1, rounds + 1), per_round))


def evidence(pool, options=OPTIONS):
    graph = knn_graph(
        pool, neighbors=options.graph_neighbors, whitening=options.graph_whitening, limit=options.graph_limit
    )
    return Evidence(pool, graph, options)


def accuracy(table, truth, bought):
    rest = np.setdiff1d(np.arange(len(truth)), bought.positions)
    return float((table.argmax(axis=1) == truth)[rest].mean())


class PlainReading:
    """The definition for a pool that its graph holds whole, without stored results or blocks."""

    def __init__(self, pool, text):
        self.text = text
        self.features = np.concatenate([pool.block(i).features for i in range(pool.n_blocks)]).astype(np.float32)
        self.features = unit(self.features)
        space = ImageSpace.fit(pool, whitening=0.85, shrinkage=0.1)
        self.places = space.place(self.features)
        self.graph = knn_graph(pool).with_labeled(np.zeros(0, np.int64))[0]
        self.logits = text.logit_scale * self.features @ text.features.T

    def log_odds(self, positions, labels, on_teacher, on_graph):
        n_classes = len(self.text.features)
        masses = class_masses(self.graph, positions, labels, n_classes)
        trusted, _ = fitted_scale(self.logits[positions], labels, 1.0, 0.7)
        teacher = (trusted * on_teacher * self.logits).astype(np.float32)
        opinion = graph_opinion(masses)
        said = self.logits[positions]
        confidence = special.softmax(said, axis=1).max(axis=1).mean()
        strength = ((said.argmax(axis=1) == labels).sum() + 2 * confidence) / (len(labels) + 2)
        weight = graph_weight(opinion, strength, len(positions)) * self.doubt(positions, labels, trusted, opinion)
        unheard = np.setdiff1d(np.arange(n_classes), labels)
        if len(unheard) and len(positions) > n_classes:
            kept = 2.0 * strength**2 * (1 - n_classes / len(positions)) / len(unheard)
            opinion[:, unheard] += np.float32(np.log(1 + kept / (0.1 / n_classes)))
        prior = teacher + np.float32(weight * on_graph) * opinion
        options = {"sharpness": 40.0, "label_weight": 3.0, "steps": 5}
        return class_means(prior, teacher, self.places, positions, labels, **options)[1]

    def limits(self, said, positions, labels):
        """Of how often a teacher is surely right, by the labels of the first 1, 2, ... rounds."""
        found = []
        for number in np.unique(self.rounds[positions]):
            upto = self.rounds[positions] <= number
            hits = int((said[positions] == labels)[upto].sum())
            test = stats.binomtest(hits, int(upto.sum()), alternative="greater")
            found.append(test.proportion_ci(0.9, method="exact").low)
        return found

    def doubt(self, positions, labels, trusted, opinion):
        """What the graph loses where it agrees with zero-shot, alone or with label-free means, less than it claims."""
        teacher = (trusted * self.logits).astype(np.float32)
        nothing = np.zeros(0, np.int64), np.zeros(0, np.int32)
        options = {"sharpness": 40.0, "label_weight": 3.0, "steps": 5}
        means = class_means(teacher, teacher, self.places, *nothing, **options)[1]
        alone, together = self.logits.argmax(axis=1), means.argmax(axis=1)
        said = max((alone, together), key=lambda part: max(self.limits(part, positions, labels)))
        rest = [i for i in range(len(said)) if i not in positions and said[i] in labels]
        heard = opinion.argmax(axis=1)
        agreed = np.mean([said[i] == heard[i] for i in rest])
        chance = sum(np.mean(said[rest] == c) * np.mean(heard[rest] == c) for c in range(len(self.text.features)))
        limits = self.limits(said, positions, labels)
        trust = min(max((max(limits) - chance - 0.05) / 0.15, 0.0), 1.0)
        if trust == 0.0:
            return 1.0
        most = max((agreed - chance) / (max(limits) - chance), 0.02)
        claimed = max((np.exp(opinion.max(axis=1)).mean() - chance) / (1 - chance), 0.02)
        return min(most / claimed, 1.0) ** (4.0 * trust)

    def posterior(self, bought):
        """Table (n, C), and the share of each pair of factors."""
        rounds = np.unique(bought.rounds)
        self.rounds = np.zeros(len(self.features), np.int64)
        self.rounds[bought.positions] = bought.rounds
        factors = [(a, b) for a in (0.4, 1.0, 2.5) for b in (0.05, 0.4, 1.0, 2.5)]
        weight, temperature = [], []
        for pair in factors:
            said, answers = [], []
            for number in rounds[1:]:
                before, now = bought.rounds < number, bought.rounds == number
                odds = self.log_odds(bought.positions[before], bought.labels[before], *pair)
                said.append(odds[bought.positions[now]])
                answers.append(bought.labels[now])
            found = fitted_scale(np.concatenate(said), np.concatenate(answers), 0.27, 0.7)
            temperature.append(found[0])
            weight.append(found[1] - 0.5 * ((np.log(pair) / 0.7) ** 2).sum())
        share = special.softmax(weight)
        on_teacher, on_graph = np.exp(share @ np.log(factors))
        odds = self.log_odds(bought.positions, bought.labels, on_teacher, on_graph)
        return special.softmax(np.exp(share @ np.log(temperature)) * odds, axis=1), share


def test_equals_a_plain_reading_of_the_definition():
    pool, text, truth = make_world(teacher=1.2)
    bought = purchases(truth, 4, 6)
    got = evidence(pool).infer(bought, text)
    table, share = PlainReading(pool, text).posterior(bought)
    np.testing.assert_allclose(got.judgment.share, share, atol=2e-3)
    np.testing.assert_allclose(got.table(), table, atol=5e-3)
    assert got.judgment.n_labels == 18


def never_bought(truth, bought, label):
    """The same purchases but for those of a class."""
    kept = truth[bought.positions] != label
    return Bought(*(part[kept] for part in vars(bought).values()))


def test_a_class_without_a_label_is_read_as_the_definition_says():
    pool, text, truth = make_world(teacher=0.6)
    bought = never_bought(truth, purchases(truth, 4, 8), 2)
    table, share = PlainReading(pool, text).posterior(bought)
    got = evidence(pool).infer(bought, text)
    np.testing.assert_allclose(got.judgment.share, share, atol=2e-3)
    np.testing.assert_allclose(got.table(), table, atol=5e-3)


def test_many_labels_of_others_do_not_silence_a_class_that_the_teacher_knows():
    pool, text, truth = make_world(noise=0.3, teacher=0.3)
    bought = never_bought(truth, purchases(truth, 6, 24), 1)
    mine = truth == 1
    named = evidence(pool).infer(bought, text).table()[mine].argmax(axis=1) == 1
    assert named.mean() > 0.8


def test_a_resumed_run_finds_the_same_bits():
    pool, text, truth = make_world(teacher=1.0)
    bought, lived = purchases(truth, 5, 6), evidence(pool)
    for rounds in range(1, 5):
        lived.infer(bought.until(6 * rounds), text)
    a, b = lived.infer(bought, text), evidence(pool).infer(bought, text)
    assert a.weights == b.weights
    np.testing.assert_array_equal(a.table(), b.table())


def test_a_label_never_testifies_for_itself():
    """What is foretold for the last round can't depend on its labels: with them renamed, evidence falls apart."""
    pool, text, truth = make_world(teacher=0.2)
    bought = purchases(truth, 2, 24)
    wrong = bought.labels.copy()
    wrong[24:] = (wrong[24:] + 1) % 6
    honest, fooled = (
        evidence(pool).infer(Bought(bought.positions, labels, bought.rounds), text).judgment
        for labels in (bought.labels, wrong)
    )
    # Any leak would make the renamed labels likely too; without one they are worse than guessing all 24.
    assert honest.log_likelihood.max() > 24 * np.log(0.5)
    assert fooled.log_likelihood.max() < 24 * np.log(1 / 6)


@pytest.mark.parametrize("teacher", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_never_far_below_the_teacher_and_the_graph(teacher, seed):
    pool, text, truth = make_world(teacher=teacher, noise=0.22, seed=seed)
    everything, judge = purchases(truth, 6, 6, seed=seed), evidence(pool)
    features = np.concatenate([pool.block(i).features for i in range(pool.n_blocks)]).astype(np.float32)
    zero_shot = features @ text.features.T
    graph = knn_graph(pool).with_labeled(np.zeros(0, np.int64))[0]
    for rounds in range(1, 7):
        bought = everything.until(6 * rounds)
        got = accuracy(judge.infer(bought, text).table(), truth, bought)
        assert got >= accuracy(zero_shot, truth, bought) - 0.01
        masses = class_masses(graph, bought.positions, bought.labels, 6)
        if rounds > 2:
            assert got >= accuracy(masses, truth, bought) - 0.03


@pytest.mark.parametrize("teacher", [0.3, 3.0])
def test_probabilities_mean_what_they_say(teacher):
    gaps = []
    for seed in range(4):
        pool, text, truth = make_world(teacher=teacher, noise=0.3, n=900, seed=seed)
        bought = purchases(truth, 8, 6, seed=seed)
        table = evidence(pool).infer(bought, text).table()
        rest = np.setdiff1d(np.arange(len(truth)), bought.positions)
        gaps.append(reliability(table.max(1)[rest], (table.argmax(1) == truth)[rest].astype(float)).ece)
    assert np.mean(gaps) < 0.08


def test_evidence_lowers_a_teacher_that_misleads_and_keeps_one_that_knows():
    """The misleading one has every class under its neighbor's name: sure, consistent, and wrong."""
    pool, text, truth = make_world(teacher=0.2, n=900)
    bought = purchases(truth, 6, 6)
    misleading = TextState(np.roll(text.features, 1, axis=0), 12.0)
    good, bad = evidence(pool).infer(bought, text), evidence(pool).infer(bought, misleading)
    assert bad.weights.teacher < 0.5 * good.weights.teacher
    assert accuracy(bad.table(), truth, bought) > 0.9
    assert accuracy(good.table(), truth, bought) > 0.95


def test_nothing_bought_is_the_teacher():
    pool, text, _ = make_world()
    nobody = np.zeros(0, np.int64)
    got = evidence(pool).infer(Bought(nobody, nobody.astype(np.int32), nobody), text)
    features = unit(np.concatenate([pool.block(i).features for i in range(pool.n_blocks)]).astype(np.float64))
    np.testing.assert_allclose(got.table(), special.softmax(12.0 * features @ text.features.T, axis=1), atol=1e-4)


def test_images_beside_the_graph_get_an_opinion_too():
    pool, text, truth = make_world(teacher=1.0, n=900, block_size=128)
    options = SelfTrainingSettings(graph_limit=300)
    bought, judge = purchases(truth, 5, 6), evidence(pool, options)
    got = judge.infer(bought, text)
    table = got.table()
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-5)
    inside = knn_graph(pool, limit=300).positions
    assert len(inside) == 300
    right = table.argmax(axis=1) == truth
    assert right[np.setdiff1d(np.arange(900), inside)].mean() > 0.9
    whole = evidence(pool).infer(bought, text).table()
    assert (whole.argmax(axis=1) == table.argmax(axis=1)).mean() > 0.9


def test_an_image_as_its_own_view_is_judged_like_the_image():
    pool, text, truth = make_world(teacher=1.0)
    got = evidence(pool).infer(purchases(truth, 3, 6), text)
    block = pool.block(1)
    positions = np.arange(block.start, block.start + len(block.keys))
    seen = got.of_views(block.features[:, None].astype(np.float32), positions)
    assert seen.shape == (len(positions), 1, 6)
    np.testing.assert_allclose(seen[:, 0], got.block(1), atol=1e-4)


def test_views_of_an_image_are_averaged_into_it():
    pool, text, truth = make_pool(n=300, noise=0.3)
    truth = truth.astype(np.int32)
    bought = purchases(truth, 4, 6)
    with_views = accuracy(evidence(pool).infer(bought, text).table(), truth, bought)
    assert with_views > accuracy(score(pool, text), truth, bought)


def score(pool, text):
    return np.concatenate([pool.block(i).features for i in range(pool.n_blocks)]).astype(np.float32) @ text.features.T


def test_purchases_out_of_order_are_refused():
    with pytest.raises(ValueError, match="order"):
        Bought(np.arange(3), np.zeros(3, np.int32), np.array([1, 2, 1]))
    with pytest.raises(ValueError, match="length"):
        Bought(np.arange(3), np.zeros(2, np.int32), np.array([1, 1, 1]))


def test_what_is_forgotten_is_found_again(monkeypatch):
    """How much is remembered of earlier rounds changes the work, never a bit of the result."""
    pool, text, truth = make_world()
    bought = purchases(truth, 4, 6)
    whole = [evidence(pool).infer(bought.until(count), text).table() for count in (12, 24, 12)]
    monkeypatch.setattr("psp_ray.posterior.evidence.REMEMBERED_BYTES", 1)
    forgetful = evidence(pool)
    for count, table in zip((12, 24, 12), whole, strict=True):
        np.testing.assert_array_equal(forgetful.infer(bought.until(count), text).table(), table)


def background_world(seed):
    """Images lie together by four backgrounds that have nothing to do with their classes, which the teacher knows."""
    data = make("backgrounds and a strong teacher", seed)
    return ArrayPool(data.features[data.pool], block_size=256), data.teacher, data.labels[data.pool]


def test_a_graph_of_something_else_than_the_classes_does_not_drown_the_teacher(monkeypatch):
    gains = []
    for seed in range(5):
        pool, text, truth = background_world(seed)
        bought = purchases(truth, 1, 20, seed=seed)
        features = np.concatenate([pool.block(i).features for i in range(pool.n_blocks)]).astype(np.float32)
        alone = accuracy(features @ text.features.T, truth, bought)
        found = accuracy(evidence(pool).infer(bought, text).table(), truth, bought)
        with monkeypatch.context() as patch:
            patch.setattr(evidence_module, "graph_doubt", lambda *opinions: 1.0)
            gains.append(found - accuracy(evidence(pool).infer(bought, text).table(), truth, bought))
        assert found > alone + 0.05
    assert np.mean(gains) > 0.1


def test_a_plain_reading_of_a_doubted_graph():
    pool, text, truth = background_world(1)
    bought = purchases(truth, 2, 12)
    plain = PlainReading(pool, text)
    table, share = plain.posterior(bought)
    opinion = graph_opinion(class_masses(plain.graph, bought.positions, bought.labels, 10))
    assert plain.doubt(bought.positions, bought.labels, 1.0, opinion) < 0.8
    got = evidence(pool).infer(bought, text)
    np.testing.assert_allclose(got.judgment.share, share, atol=5e-3)
    np.testing.assert_allclose(got.table(), table, atol=2e-2)
