"""`PromptLearner` on a tiny random tower."""

from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from psp_ray.clip.spec import BackboneSpec
from psp_ray.clip.text import TextTower
from psp_ray.clip.zero_shot import zero_shot_text
from psp_ray.config.base import replace
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import LearnRequest, PseudoLabels, TextState
from psp_ray.learn import LearnSettings, PromptLearner, descent, evaluate, schedule
from psp_ray.learn.gap import label_gap
from psp_ray.learn.prompts import Prompts
from tests.helpers import ArrayPool

NAMES = ["cat", "grass land", "river or lake", "hard-leaved pocket orchid"]
QUICK = LearnSettings(
    context_length=4,
    context_init="random",
    learning_steps=40,
    learning_rate=0.02,
    rate_unit="absolute",
    weight_decay=0.0,
    anchor="fixed",
    anchor_weight=0.0,
)


@pytest.fixture(scope="module")
def tower(make_model):
    return TextTower(make_model("flat"), open_clip.SimpleTokenizer())


@pytest.fixture(scope="module")
def pool():
    """Four clusters in feature space; sample i is of class i % 4."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((4, 24))
    features = centers[np.arange(200) % 4] + 0.4 * rng.standard_normal((200, 24))
    return ArrayPool(features / np.linalg.norm(features, axis=1, keepdims=True), block_size=64)


def request(learner, n=16, n_new=8, pseudo=0, round_=1, teacher=None):
    positions = np.arange(n, dtype=np.int64)
    guessed = np.arange(100, 100 + pseudo, dtype=np.int64)
    ones = np.ones(pseudo, np.float32)
    return LearnRequest(
        round=round_,
        labeled=positions,
        labels=(positions % 4).astype(np.int32),
        n_new=n_new,
        pseudo=PseudoLabels(guessed, (guessed % 4).astype(np.int32), ones, 0 * ones),
        teacher=teacher or learner.zero_shot(),
    )


def accuracy(text, pool):
    return evaluate(text, [pool.rows(np.arange(pool.n))], (np.arange(pool.n) % 4).astype(np.int32)).accuracy


@pytest.mark.parametrize("context", ["class", "shared"])
def test_learns(tower, pool, context):
    learner = PromptLearner(tower, NAMES, pool, replace(QUICK, context=context))
    before = learner.zero_shot()
    outcome = learner.learn(request(learner, pseudo=20))
    assert accuracy(outcome.text, pool) > max(0.4, accuracy(before, pool))
    assert outcome.contexts.shape == ((4, 4, 32) if context == "class" else (4, 32))
    assert outcome.contexts.dtype == outcome.text.features.dtype == np.float32
    assert outcome.text.features.shape == (4, 24)
    np.testing.assert_allclose(np.linalg.norm(outcome.text.features, axis=1), 1.0, atol=1e-5)
    assert outcome.steps == 40
    assert outcome.restarts == 0
    assert outcome.warning == ""
    assert np.isfinite(outcome.train_loss)
    assert outcome.gap_new.shape == outcome.gap_new_before.shape == (8,)
    assert outcome.gap_pseudo.shape == outcome.gap_pseudo_before.shape == (20,)
    again = learner.text_of(outcome.contexts)
    np.testing.assert_allclose(again.features, outcome.text.features, atol=1e-6)


def test_gaps_are_the_formula(tower, pool):
    learner = PromptLearner(tower, NAMES, pool, QUICK)
    asked = request(learner, n=12, n_new=5, pseudo=3)
    outcome = learner.learn(asked)
    for gaps, text, positions, labels in [
        (outcome.gap_new, outcome.text, asked.labeled[-5:], asked.labels[-5:]),
        (outcome.gap_pseudo, outcome.text, asked.pseudo.positions, asked.pseudo.labels),
        (outcome.gap_new_before, asked.teacher, asked.labeled[-5:], asked.labels[-5:]),
        (outcome.gap_pseudo_before, asked.teacher, asked.pseudo.positions, asked.pseudo.labels),
    ]:
        for gap, position, label in zip(gaps, positions, labels, strict=True):
            cosines = [float(np.dot(pool.rows([position])[0].astype(float), row)) for row in text.features]
            assert gap == pytest.approx(max(cosines) - cosines[label], abs=1e-5)
            assert gap >= 0
    assert label_gap(outcome.text, pool.rows([]), np.zeros(0, np.int32)).shape == (0,)


def test_one_step_equals_plain_torch_on_open_clip(tower, pool, make_model):
    """The loss, its gradient and AdamW's step, written out with open_clip's own text encoder."""
    config = replace(QUICK, learning_steps=3, pseudo_weight=0.5)
    learner = PromptLearner(tower, NAMES, pool, config)
    asked = request(learner, pseudo=6)
    outcome = learner.learn(asked)

    prompts = learner.prompts.plan.prompts
    plan = tower.plan(prompts, shared=False, path="full")
    contexts = learner.prompts.initial(torch.Generator().manual_seed(_key(1))).requires_grad_()
    optimizer = torch.optim.AdamW([contexts], 0.02, weight_decay=0.0)
    for index in range(3):
        optimizer.param_groups[0]["lr"] = 0.02 * 0.5 * (1 + np.cos(np.pi * index / 3))
        features = F.normalize(tower.encode(plan, contexts), dim=-1)
        total = 0.0
        for weight, positions, labels in [
            (1.0, asked.labeled, asked.labels),
            (0.5, asked.pseudo.positions, asked.pseudo.labels),
        ]:
            images = torch.as_tensor(pool.rows(positions).astype(np.float32))
            logits = tower.logit_scale * images @ features.T
            total = total + weight * F.cross_entropy(logits, torch.as_tensor(labels).long())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    np.testing.assert_allclose(outcome.contexts, contexts.detach().numpy(), atol=2e-4)
    features = F.normalize(tower.encode(plan, contexts), dim=-1).detach().numpy()
    np.testing.assert_allclose(outcome.text.features, features, atol=1e-4)


def _key(round_):
    from psp_ray.core.noise import stream_key

    return stream_key(0, "learn", round_)


def test_same_request_same_bits_whatever_came_before(tower, pool):
    config = replace(QUICK, pseudo_batch=5)
    first = PromptLearner(tower, NAMES, pool, config)
    second = PromptLearner(tower, NAMES, pool, config)
    second.learn(request(second, n=8, n_new=8))
    one = first.learn(request(first, pseudo=20, round_=2))
    other = second.learn(request(second, pseudo=20, round_=2))
    assert np.array_equal(one.contexts, other.contexts)
    assert np.array_equal(one.text.features, other.text.features)
    different = first.learn(request(first, pseudo=20, round_=3))
    assert not np.array_equal(one.contexts, different.contexts)


def test_warm_start_survives_a_restart(tower, pool):
    config = replace(QUICK, warm_start=True)
    learner = PromptLearner(tower, NAMES, pool, config)
    assert learner.state_dict() == {}
    first = learner.learn(request(learner))
    state = learner.state_dict()
    assert np.array_equal(state["contexts"], first.contexts)
    onward = learner.learn(request(learner, n=24, round_=2))
    restored = PromptLearner(tower, NAMES, pool, config)
    restored.load_state_dict(state)
    assert np.array_equal(onward.contexts, restored.learn(request(learner, n=24, round_=2)).contexts)
    cold = PromptLearner(tower, NAMES, pool, config)
    cold.load_state_dict({})
    assert not np.array_equal(onward.contexts, cold.learn(request(learner, n=24, round_=2)).contexts)
    with pytest.raises(ConfigError, match="resume with the settings"):
        cold.load_state_dict({"contexts": np.zeros((2, 4, 32), np.float32)})


def test_reads_only_what_it_learns_from(tower, pool):
    read = []

    class Watched(ArrayPool):
        def rows(self, positions):
            read.extend(np.asarray(positions).tolist())
            return pool.rows(positions)

        def block(self, index, *, views=False):
            raise AssertionError("no block is needed")

    learner = PromptLearner(tower, NAMES, Watched(np.zeros((200, 24))), QUICK)
    asked = request(learner, n=10, pseudo=4)
    learner.learn(asked)
    assert set(read) == set(asked.labeled.tolist()) | set(asked.pseudo.positions.tolist())


def test_guard_restarts_after_a_loss_that_is_not_finite(tower, pool, monkeypatch):
    learner = PromptLearner(tower, NAMES, pool, QUICK)
    original = descent.mean_loss
    calls = []

    def exploding(*given):
        calls.append(1)
        scale = float("nan") if len(calls) < 3 else 1.0  # two losses a step
        return original(*given) * scale

    monkeypatch.setattr(descent, "mean_loss", exploding)
    outcome = learner.learn(request(learner))
    assert outcome.restarts == 1
    assert outcome.warning == ""
    assert np.isfinite(outcome.contexts).all()


def test_guard_gives_up_with_a_warning(tower, pool, monkeypatch):
    learner = PromptLearner(tower, NAMES, pool, QUICK)
    monkeypatch.setattr(descent, "mean_loss", lambda _, features, *__: features.sum() * float("nan"))
    outcome = learner.learn(request(learner))
    assert outcome.restarts == 2
    assert "not finite" in outcome.warning
    assert np.isfinite(outcome.text.features).all()
    assert np.isnan(outcome.train_loss)


def test_guard_notices_a_student_below_its_teacher(tower, pool):
    """A single step can't reach a teacher that knows the clusters."""
    centers = np.stack([pool.rows(np.arange(c, 200, 4)).astype(np.float32).mean(0) for c in range(4)])
    teacher = TextState(centers / np.linalg.norm(centers, axis=1, keepdims=True), 20.0)
    config = replace(QUICK, learning_steps=1, learning_rate=1e-6)
    learner = PromptLearner(tower, NAMES, pool, config)
    outcome = learner.learn(request(learner, teacher=teacher))
    assert outcome.restarts == 2
    assert "its teacher on 100.0%" in outcome.warning
    off = PromptLearner(tower, NAMES, pool, replace(config, divergence_guard=False))
    outcome = off.learn(request(off, teacher=teacher))
    assert outcome.restarts == 0
    assert outcome.warning == ""


def test_restart_shrinks_the_learning_rate(tower, pool, monkeypatch):
    rates = []
    original = descent.make_optimizer

    def watched(settings, contexts, shrink, unit):
        rates.append(shrink)
        return original(settings, contexts, shrink, unit)

    monkeypatch.setattr(descent, "make_optimizer", watched)
    learner = PromptLearner(tower, NAMES, pool, QUICK)
    monkeypatch.setattr(descent, "mean_loss", lambda _, features, *__: features.sum() * float("nan"))
    learner.learn(request(learner))
    assert rates == pytest.approx([1.0, 0.3, 0.09])


def test_averaging_is_the_mean_of_the_last_iterates(tower, pool, monkeypatch):
    config = replace(QUICK, learning_steps=4, divergence_guard=False)
    learner = PromptLearner(tower, NAMES, pool, replace(config, averaging=0.5))
    averaged = learner.learn(request(learner)).contexts
    # The same run without averaging, stopped after 3 and after 4 of its 4 steps.
    finals = []
    learner = PromptLearner(tower, NAMES, pool, config)
    for stop in (3, 4):
        monkeypatch.setattr(descent, "steps", lambda *a, stop=stop: islice(schedule.steps(*a), stop))
        finals.append(learner.learn(request(learner)).contexts)
    np.testing.assert_allclose(averaged, np.mean(finals, axis=0), atol=1e-6)


def test_progress_and_threads(tower, pool):
    seen = []
    before = torch.get_num_threads()
    learner = PromptLearner(tower, NAMES, pool, QUICK, threads=1)
    learner.learn(request(learner), progress=lambda step, loss: seen.append((step, loss)))
    assert [step for step, _ in seen] == [1, 11, 21, 31, 40]
    assert seen[-1][1] < seen[0][1]
    assert torch.get_num_threads() == before


def test_pcb_protocol_runs(tower, pool):
    learner = PromptLearner(tower, NAMES, pool, replace(QUICK, protocol="pcb"))
    outcome = learner.learn(request(learner, n=40, pseudo=10))
    assert outcome.steps == 200
    assert outcome.contexts.shape == (4, 4, 32)


def test_only_pseudo_labels_and_nothing_at_all(tower, pool):
    learner = PromptLearner(tower, NAMES, pool, QUICK)
    outcome = learner.learn(request(learner, n=0, n_new=0, pseudo=12))
    assert outcome.gap_new.shape == (0,)
    with pytest.raises(ConfigError, match="nothing to learn from"):
        learner.learn(request(learner, n=0, n_new=0))


def test_words_fill_the_slots_next_to_the_name(tower):
    words = tower.embed_tokens("a photo of a")
    generator = torch.Generator().manual_seed(1)
    for position, places in {"end": slice(2, 6), "front": slice(0, 4), "middle": slice(0, 4)}.items():
        config = LearnSettings(context_length=6, context_init="a photo of a", class_token_position=position)
        contexts = Prompts(tower, NAMES, config).initial(generator)
        assert torch.equal(contexts[:, places], words.expand(4, -1, -1))
        rest = torch.ones(6, dtype=torch.bool)
        rest[places] = False
        assert 0.005 < contexts[:, rest].std() < 0.04
    with pytest.raises(ConfigError, match="4 tokens for context_length 3"):
        Prompts(tower, NAMES, LearnSettings(context_length=3, context_init="a photo of a"))


def test_exact_words_start_at_zero_shot(tower, pool):
    config = replace(QUICK, context_init="a photo of a")
    learner = PromptLearner(tower, NAMES, pool, config)
    start = learner.prompts.class_features(learner.prompts.initial(torch.Generator()))
    np.testing.assert_allclose(start.numpy(), learner.zero_shot().features, atol=1e-5)


PHRASES = {"Cat": ["four legs", "fur"], "grass_land": ["green"], "river-or-lake": ["blue", "wet", "long"]}
PHRASES |= {"Hard leaved pocket orchid": ["petals"]}


def test_descriptions_average_embeddings_or_similarities(tower, pool):
    images = torch.as_tensor(pool.rows(np.arange(10)).astype(np.float32))
    base = replace(QUICK, context_init="a photo of a")
    texts = [
        [f"a photo of a {name}, which is/has {phrase}." for phrase in phrases]
        for name, phrases in zip(NAMES, PHRASES.values(), strict=True)
    ]
    raw = [tower.model.encode_text(open_clip.tokenize(group)) for group in texts]

    average = Prompts(tower, NAMES, replace(base, descriptions="AE"), PHRASES)
    expected = F.normalize(torch.stack([group.mean(0) for group in raw]), dim=-1)
    features = average.class_features(average.initial(torch.Generator()))
    assert torch.allclose(features, expected, atol=1e-5)

    similarity = Prompts(tower, NAMES, replace(base, descriptions="AS"), PHRASES)
    features = similarity.class_features(similarity.initial(torch.Generator()))
    logits = torch.stack([(images @ F.normalize(group, dim=-1).T).mean(1) for group in raw], dim=1)
    assert torch.allclose(images @ features.T, logits, atol=1e-5)


@pytest.mark.parametrize("mode", ["AS", "AE"])
def test_learning_with_descriptions(tower, pool, mode):
    learner = PromptLearner(tower, NAMES, pool, replace(QUICK, descriptions=mode), PHRASES)
    outcome = learner.learn(request(learner))
    assert outcome.contexts.shape == (4, 4, 32)
    assert outcome.text.features.shape == (4, 24)
    assert accuracy(outcome.text, pool) > 0.4


def test_descriptions_must_be_there(tower, pool):
    config = replace(QUICK, descriptions="AS")
    with pytest.raises(ConfigError, match="needs a description file"):
        PromptLearner(tower, NAMES, pool, config)
    with pytest.raises(ConfigError, match="'cat'"):
        PromptLearner(tower, NAMES, pool, config, {"dog": ["fur"]})


def test_a_gated_anchor_lets_go_of_a_teacher_that_misses(tower, pool):
    """All hits: nearly the fixed weight. No hit: next to none. Both as a fixed weight of that strength has it."""
    learner = PromptLearner(tower, NAMES, pool, replace(QUICK, anchor="gated", anchor_weight=4.0))
    asked = request(learner, pseudo=0)
    zero_shot = zero_shot_text(tower, NAMES).features
    right = (pool.rows(asked.labeled).astype(np.float32) @ zero_shot.T).argmax(1).astype(np.int32)
    for labels, hits in ((right, len(right)), ((right + 1) % len(NAMES), 0)):
        gate = ((hits + 1) / (len(right) + 2)) ** 2
        fixed = PromptLearner(tower, NAMES, pool, replace(QUICK, anchor_weight=4.0 * gate))
        told = dataclasses.replace(asked, labels=labels.astype(np.int32))
        np.testing.assert_allclose(learner.learn(told).contexts, fixed.learn(told).contexts, atol=1e-6)


def test_decay_towards_the_start_ends_nearer_to_it(tower, pool):
    far = PromptLearner(tower, NAMES, pool, QUICK)
    near = PromptLearner(tower, NAMES, pool, replace(QUICK, weight_decay=8.0, decay_towards="start"))
    asked = request(far)
    start = far.prompts.initial(torch.Generator().manual_seed(_key(1))).numpy()
    moved, kept = (np.linalg.norm(learner.learn(asked).contexts - start) for learner in (far, near))
    assert 0 < kept < 0.8 * moved


def test_anchor_keeps_the_prompt_near_zero_shot(tower, pool):
    distances = []
    for weight in (0.0, 50.0):
        learner = PromptLearner(tower, NAMES, pool, replace(QUICK, anchor_weight=weight))
        outcome = learner.learn(request(learner))
        distances.append(np.square(outcome.text.features - learner.zero_shot().features).sum(1).mean())
    assert distances[1] < 0.5 * distances[0]


def test_loads_the_tower_from_a_spec(checkpoint, pool):
    _, path = checkpoint
    learner = PromptLearner(BackboneSpec("tiny-flat", str(path), device="cpu"), NAMES, pool, QUICK)
    assert learner.tower.path == "fast"
    assert learner.learn(request(learner)).contexts.shape == (4, 4, 32)
