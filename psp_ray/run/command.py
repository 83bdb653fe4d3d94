"""What the sub-commands `run` and `featurize` do, from a resolved configuration to the files of a finished run."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.config.acquisition import automatic_audit
from psp_ray.config.base import option_name
from psp_ray.config.config import Config
from psp_ray.core.answers import AwaitingLabels
from psp_ray.core.errors import ConfigError, DatasetError, OutputError
from psp_ray.core.files import LOCK, alone, read_json, write_json, write_text
from psp_ray.core.threads import limit_threads
from psp_ray.data.dataset import Dataset
from psp_ray.data.load import load_dataset
from psp_ray.data.own import initial_labels, limited, readable
from psp_ray.features.cache import EncoderSpec, FeatureCache
from psp_ray.features.featurize import FeaturizedDataset, Progress, featurize, plan_featurize, write_broken
from psp_ray.features.quota import make_room
from psp_ray.posterior.accuracy import telling
from psp_ray.report.progress import LOOKING, Reporter, counting, duration, interval, percent, rounds_table
from psp_ray.run import build as components
from psp_ray.run.checkpoint import drop_checkpoint
from psp_ray.run.finish import finish, pool_names
from psp_ray.run.loop import Experiment, PoolNames, RunState
from psp_ray.run.output import (
    SUMMARY,
    write_labels,
    write_policy,
    write_rounds,
    write_summary,
)
from psp_ray.run.runtime import InlineRuntime, Runtime
from psp_ray.storage.mirror import RunMirror, Storage

DIGITS_IMAGE_SIZE = 96
RUN_FILE = "run.json"


@dataclass(frozen=True)
class Prepared:
    """A checked run: complete settings, the data set, and what its features depend on."""

    config: Config
    dataset: Dataset
    spec: EncoderSpec


def prepare(config: Config, dataset: Dataset | None = None) -> Prepared:
    """Check all that can be checked before anything is written, encoded or bought, and fill in what depends on it.

    `dataset` spares loading the configuration's data set where it is at hand.

    Raises:
        UserError: one line for the first thing that is wrong.
    """
    if dataset is None:
        dataset = load_data(config)
    config = complete(config, dataset)
    check_budget(config, dataset)
    components.check_annotators(config, len(dataset.classes))
    templates_of(config, dataset)
    descriptions_of(config, dataset)
    return Prepared(config, dataset, _encoder_spec(config))


def load_data(config: Config) -> Dataset:
    """The data set that the settings name, with all that belongs to it.

    Raises:
        DatasetError: as `load_dataset`, or unusable initial labels.
    """
    dataset = load_dataset(
        config.data.dataset,
        config.data.data_root,
        config.data.split,
        classes=config.data.classes,
        test=config.data.test,
        exclude=config.data.exclude,
    )
    known = (
        initial_labels(dataset, config.data.initial_labels)[0] if config.data.initial_labels else np.zeros(0, np.int64)
    )
    if config.data.pool_limit is not None:
        dataset = limited(dataset, config.data.pool_limit, config.runtime.seed, known)
    return dataset


def complete(config: Config, dataset: Dataset) -> Config:
    """Fill in the settings whose default depends on the data set."""
    updates: dict[str, Any] = {}
    if config.labels.labels_per_round is None:
        updates["labels_per_round"] = len(dataset.classes)
    if config.model.image_size is None and config.data.dataset == "digits" and config.model.model == "psp-lite":
        updates["image_size"] = DIGITS_IMAGE_SIZE
    if not dataset.mirror and config.model.view_flip:
        updates["view_flip"] = False
    if config.policy.audit_fraction == "auto":
        tested = (dataset.val if config.data.evaluate_on == "val" else dataset.test).num_rows > 0
        per_round = updates.get("labels_per_round", config.labels.labels_per_round)
        labels = dataset.pool.num_rows if per_round == "pool" else per_round * config.labels.rounds
        updates["audit_fraction"] = automatic_audit(min(labels, dataset.pool.num_rows), tested)
    return config.changed(**updates)


def _with_pool_size(config: Config, dataset: Dataset) -> Config:
    """`labels_per_round: pool` in numbers, once it is known which images can be read."""
    if config.labels.labels_per_round != "pool":
        return config
    return config.changed(labels_per_round=dataset.pool.num_rows)


def check_budget(config: Config, dataset: Dataset) -> None:
    """Raise a UserError where the rounds ask for more labels than there are, or there is nothing to evaluate on."""
    per_round = _with_pool_size(config, dataset).labels.labels_per_round
    assert isinstance(per_round, int)
    n, wanted = dataset.pool.num_rows, config.labels.rounds * per_round
    if per_round > n or (wanted > n and components.answers_from_truth(config)):
        raise ConfigError(
            f"--rounds {config.labels.rounds} x --labels-per-round {config.labels.labels_per_round} = {wanted} labels, "
            f"but the pool has {n} images; lower one of them"
        )
    if config.labels.label_cap is not None and wanted > config.labels.label_cap:
        raise ConfigError(f"--label-cap {config.labels.label_cap} is below the {wanted} labels that the rounds buy")
    if config.data.evaluate_on == "val" and not dataset.val.num_rows:
        raise DatasetError(f"{dataset.name}: no val images; choose another --evaluate-on or add some")


def _require_labels(config: Config, dataset: Dataset) -> None:
    """Ground truth, where it is to answer, can do so for all of the pool."""
    if not components.answers_from_truth(config):
        return
    unknown = int((dataset.known_labels("pool") < 0).sum())
    if unknown:
        raise DatasetError(
            f"{dataset.name}: {unknown:,} of {dataset.pool.num_rows:,} pool images have no label; "
            "add --oracle file to label images by hand, or complete the labels"
        )


def descriptions_of(config: Config, dataset: Dataset) -> dict[str, list[str]]:
    """The descriptions of the data set's classes, or nothing where they are not used.

    Those of `--description-file`, else those given with the class names; there a class without any describes itself.
    """
    if config.learn.descriptions == "none" or not (config.data.description_file or dataset.descriptions):
        return {}
    from psp_ray.data.descriptions import load_descriptions, match_descriptions

    if config.data.description_file:
        phrases = match_descriptions(load_descriptions(config.data.description_file), dataset.prompt_names)
    else:
        phrases = tuple(tuple(dataset.descriptions.get(name) or [name]) for name in dataset.classes)
    return {name: list(items) for name, items in zip(dataset.prompt_names, phrases, strict=True)}


def templates_of(config: Config, dataset: Dataset) -> list[str]:
    if config.data.template is None:
        return list(dataset.templates)
    if config.data.template.count("{}") != 1:
        raise ConfigError(f"--template {config.data.template!r}: put {{}} once where the class name goes")
    return [config.data.template]


def _encoder_spec(config: Config) -> EncoderSpec:
    from psp_ray.clip.backbone import backbone_hash, precision_on
    from psp_ray.clip.spec import resolve

    spec = components.backbone_spec(config)
    found = resolve(spec)
    precision = precision_on(config.model.device, config.model.precision)
    return EncoderSpec(backbone_hash(spec), found.preprocessing, int(found.config["embed_dim"]), precision)


# -- the output folder -----------------------------------------------------------------------------------------------


def default_out(config: Config) -> Path:
    """`runs/DATASET-STRATEGY-seedN`, with a number behind it where that is taken (unless resuming)."""
    name = Path(config.data.dataset.partition(":")[0]).name or "data"
    base = Path("runs") / f"{name}-{config.policy.shown_strategy}-seed{config.runtime.seed}"
    if config.output.resume:
        return base
    number, path = 1, base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def check_out(config: Config, out: Path) -> None:
    """Look whether `out` can be used at all; touches nothing.

    Raises:
        OutputError: not a folder, not writable, used while not resuming, or holding something else.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out {out}: a file of that name exists; choose another folder")
    parent = out
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"--out {out}: {parent} is not a writable folder; choose another one")
    entries = {path.name for path in out.iterdir()} - {LOCK} if out.exists() else set()
    if not entries:
        return
    if not config.output.resume:
        raise OutputError(f"--out {out}: the folder is not empty; add --resume to continue it, or choose another one")
    if RUN_FILE not in entries and any(not name.startswith(".") for name in entries):
        raise OutputError(f"--out {out}: the folder holds something else than a run of psp-ray; choose another one")


def open_out(config: Config, out: Path) -> str:
    """Create the output folder, or enter it again; returns the experiment id.

    Raises:
        OutputError: as `check_out`, or the run there was started with other settings.
    """
    check_out(config, out)
    if (out / RUN_FILE).exists():
        record = read_json(out / RUN_FILE)
        changed = differences(record["identity"], config.identity())
        if changed:
            raise OutputError(f"--resume: {out} was started with {changed}; give the same settings, or another --out")
        if not (out / "config.yaml").exists():
            write_text(out / "config.yaml", config.to_yaml())
        return str(record["experiment"])
    # Unique for ever, and readable in the ledger's account.
    experiment = f"{out.absolute().name[:20]}-{uuid.uuid4().hex[:12]}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        # First what makes the folder a run: killed after it, the run can be resumed.
        write_json(out / RUN_FILE, {"experiment": experiment, "identity": config.identity()})
        write_text(out / "config.yaml", config.to_yaml())
    except OSError as error:
        raise OutputError(f"--out {out}: can't be written ({error.strerror}); choose another folder") from None
    return experiment


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first settings in which two identities differ, in words; empty where they agree.

    A setting that the older version of psp-ray did not know had its default; one that is no more is left out.
    """
    defaults = Config().identity()
    keys = [key for key in new if old.get(key, defaults[key]) != new[key]]
    return ", ".join(f"{option_name(key)} {old.get(key, defaults[key])} (now {new[key]})" for key in keys[:3])


def write_user_file(path: Path, text: str) -> None:
    """Write a file where the user asked for it.

    Raises:
        OutputError: it can't be written there.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise OutputError(f"--out {path}: can't be written ({error.strerror}); choose another place") from None


# -- sub-commands ----------------------------------------------------------------------------------------------------


def dry_run(config: Config) -> str:
    """Check every setting and return the resolved configuration as YAML. Writes and buys nothing."""
    out = Path(config.output.out) if config.output.out else default_out(config)
    prepared = prepare(config)
    _require_labels(config, prepared.dataset)
    check_out(prepared.config, out)
    return prepared.config.to_yaml()


def run(config: Config, reporter: Reporter | None = None, wait: float = 0.0) -> dict[str, Any]:
    """Run (or resume) an experiment; returns the content of `summary.json`.

    With `oracle: file` it ends at once where labels are missing; `status` is then `awaiting_labels`. Where another
    process is at work in the output folder, its end is awaited for `wait` seconds.
    """
    started = time.perf_counter()
    reporter = reporter or Reporter(config.labels.rounds)
    limit_threads(config.runtime.threads)
    out = Path(config.output.out) if config.output.out else default_out(config)
    check_out(config, out)
    if config.output.storage is not None and RunMirror(Storage(config.output.storage), out).restore(
        config.output.resume
    ):
        reporter.note(f"restored {out} from {config.output.storage}")
    reporter.note(
        f"psp-ray: {config.policy.shown_strategy} on {config.data.dataset}, {config.labels.rounds} rounds, "
        f"seed {config.runtime.seed} -> {out}"
    )
    prepared = prepare(config)
    config = prepared.config
    _require_labels(config, prepared.dataset)
    with alone(out, wait) as locked:
        if not locked:
            reporter.warn(f"--out {out}: its file system has no locks; start no second process there")
        return _run_alone(config, prepared, out, reporter, started)


def _run_alone(config: Config, prepared: Prepared, out: Path, reporter: Reporter, started: float) -> dict[str, Any]:
    experiment_id = open_out(config, out)
    finished = _finished(out)
    if finished is not None and not _reopen(config, prepared.dataset, out, experiment_id, reporter):
        reporter.note(f"already finished: {_accuracy_text(finished, config)}; see {out / SUMMARY}")
        return finished
    with open_runtime(config, reporter) as runtime:
        data = featurize_prepared(prepared, runtime, reporter)
        if data.broken:
            write_broken(out / "broken_images.csv", data.broken)
            what = "1 image" if len(data.broken) == 1 else f"{len(data.broken):,} images"
            reporter.warn(f"left out {what} that can't be read; see {out / 'broken_images.csv'}")
            check_budget(config, data.dataset)
        initial = _initial_labels(config, prepared.dataset, data.dataset, reporter)
        return _run_rounds(config, data, initial, runtime, out, experiment_id, reporter, started)


def featurize_only(config: Config, reporter: Reporter | None = None) -> FeaturizedDataset:
    """Fill the feature cache for a data set."""
    reporter = reporter or Reporter(config.labels.rounds)
    limit_threads(config.runtime.threads)
    prepared = prepare(config)
    with open_runtime(prepared.config, reporter) as runtime:  # the complete settings: encoders are built from them
        data = featurize_prepared(prepared, runtime, reporter)
    for image in data.broken:
        reporter.warn(f"{image.sample_id}: {image.reason}")
    n = data.dataset.manifest.num_rows
    reporter.note(f"{n:,} images of {config.data.dataset} are in the cache, {data.n_encoded:,} encodings made now")
    return data


@contextmanager
def open_runtime(config: Config, reporter: Reporter) -> Iterator[Runtime]:
    """Where components live: this process, or Ray actors."""
    if config.runtime.runner == "inline":
        yield InlineRuntime(config)
        return
    from psp_ray.actors.runtime import RayRuntime

    runtime = RayRuntime(config, reporter)
    try:
        yield runtime
    finally:
        reporter.stop()
        runtime.close()


def featurize_prepared(prepared: Prepared, runtime: Runtime, reporter: Reporter) -> FeaturizedDataset:
    """Encode what the cache lacks, with an estimate first; `runtime` is used only where something is missing."""
    config = prepared.config
    cache = FeatureCache.open(config.runtime.cache)
    views = components.view_settings(config) if uses_cached_views(config) else None
    plan = plan_featurize(prepared.dataset, prepared.spec, cache, views, looked=counting(reporter, LOOKING))
    reporter.stop()
    if plan.n_missing and config.runtime.cache_gib is not None:
        stores = [cache.features(prepared.spec), *([cache.views(prepared.spec, views)] if views else [])]
        for line in make_room(
            cache.folder, config.runtime.cache_gib, plan.bytes_needed, [store.folder for store in stores]
        ):
            reporter.note(f"--cache-gib {config.runtime.cache_gib:g}: {line}")
    if plan.n_missing:
        reporter.note(
            f"featurizing {plan.n_missing:,} images ({plan.n_encodings:,} encodings with views) once, "
            f"{plan.bytes_needed / 2**20:.1f} MiB into {cache.folder}"
        )

    def show(progress: Progress) -> None:
        if progress.images_per_second is not None:
            reporter.featurizing(progress.done, progress.total, progress.images_per_second, progress.eta_seconds or 0.0)

    data = featurize(
        prepared.dataset,
        prepared.spec,
        cache,
        lambda: components.make_encoder(config),
        views,
        plan=plan,
        map_fn=runtime.map_chunks if plan.n_missing else None,
        progress=show if plan.n_missing else None,
    )
    reporter.stop()
    return data


def uses_cached_views(config: Config) -> bool:
    return config.selftrain.self_training != "none" and config.model.view_mode == "cached"


def _initial_labels(
    config: Config, dataset: Dataset, left: Dataset, reporter: Reporter
) -> tuple[np.ndarray, np.ndarray] | None:
    """Initial labels as positions in the pool that is left of `dataset` without unreadable images."""
    if not config.data.initial_labels:
        return None
    initial, gone = readable(initial_labels(dataset, config.data.initial_labels), dataset, left)
    if gone:
        what = "1 initial label: its image" if len(gone) == 1 else f"{len(gone):,} initial labels: their images"
        reporter.warn(f"left out {what} can't be read ({gone[0]}{', ...' if len(gone) > 1 else ''})")
    return initial


def _run_rounds(
    config: Config,
    data: FeaturizedDataset,
    initial: tuple[np.ndarray, np.ndarray] | None,
    runtime: Runtime,
    out: Path,
    experiment_id: str,
    reporter: Reporter,
    started: float,
) -> dict[str, Any]:
    config = _with_pool_size(config, data.dataset)
    names = pool_names(data)
    settings = components.settings_json(config)
    cache = FeatureCache.open(config.runtime.cache).folder
    pool_labels = data.dataset.known_labels("pool")
    evaluation = data.test if config.data.evaluate_on == "test" else data.val
    tested = evaluation.n > 0 and evaluation.labels is not None
    if not tested:
        reporter.note(
            f"no {config.data.evaluate_on} images: accuracy is estimated from the draws alone; the larger "
            f"--audit-fraction (now {config.policy.audit_share:g}), the sharper"
        )
    learner = components.LearnerInput(
        settings=settings,
        classes=data.dataset.prompt_names,
        templates=templates_of(config, data.dataset),
        descriptions=descriptions_of(config, data.dataset),
        evaluation=components.PoolSource.of(evaluation.reader, cache, config.output.storage) if tested else None,
        evaluation_labels=evaluation.labels if tested and evaluation.labels is not None else np.zeros(0, np.int32),
        pool_labels=pool_labels,
    )
    oracle = oracle_input(config, data.dataset, out, data.content_hashes, experiment_id)
    view_input = None
    if config.selftrain.self_training != "none" and config.model.view_mode != "cached":
        store = None
        if config.model.view_mode == "on-demand":
            views, spec = components.view_settings(config), _encoder_spec(config)
            FeatureCache.open(config.runtime.cache).describe(spec, views)
            kept = FeatureCache.open(config.runtime.cache).views(spec, views)
            store = components.ViewStore(kept.folder, data.pool.hashes)
        view_input = components.ViewInput(settings, data.dataset.pool, data.pool.hashes, store)
    crew = runtime.crew(
        settings, components.PoolSource.of(data.pool, cache, config.output.storage), learner, oracle, view_input
    )
    backbone = crew.learner.submit("backbone").result()
    experiment = Experiment(config, names, crew, out, experiment_id, reporter, initial)
    mirror = RunMirror(Storage(config.output.storage), out) if config.output.storage is not None else None

    def on_round(state: RunState) -> None:
        _write_round(out, state, names)
        if mirror is not None:
            mirror.save()

    experiment.on_round = on_round
    try:
        state = experiment.run()
    except AwaitingLabels as error:
        reporter.stop()
        if mirror is not None:
            mirror.save()
        return _await(config, experiment, out, error, time.perf_counter() - started, backbone, reporter)
    except BaseException as error:
        reporter.stop()
        if isinstance(error, (KeyboardInterrupt, SystemExit)) or type(error).__name__ == "Interrupted":
            saved = experiment.state
            wall = time.perf_counter() - started
            write_summary(out, config, "interrupted", saved, wall, backbone["image_size"][0])
            reporter.note(f"interrupted; continue with the same command and --resume --out {out}")
        raise
    extra = finish(config, data, experiment, state, out, backbone)
    _write_round(out, state, names)
    reporter.stop()
    wall = experiment.wall_seconds + experiment.started - started
    summary = write_summary(out, config, "finished", state, wall, backbone["image_size"][0], extra)
    if mirror is not None:
        mirror.save()
    _say_goodbye(config, summary, state, out, reporter)
    return summary


def oracle_input(
    config: Config, dataset: Dataset, out: Path, content_hashes: Sequence[str] = (), experiment: str = ""
) -> components.OracleInput:
    """What the oracle needs: for labels by file the pool's images, else the labels that it answers with.

    `content_hashes` of the pool's images: a shared oracle knows them by these.
    """
    asks = not components.answers_from_truth(config)
    return components.OracleInput(
        settings=components.settings_json(config),
        classes=list(dataset.classes),
        ledger=config.labels.ledger or os.environ.get("PSP_RAY_LEDGER") or str((out / "ledger.sqlite").resolve()),
        sample_ids=dataset.pool["sample_id"].to_pylist(),
        labels=dataset.known_labels("pool"),
        folder=str(out.resolve()) if asks else "",
        manifest=dataset.pool if asks else None,
        content_hashes=list(content_hashes),
        experiment=experiment,
    )


def _await(
    config: Config,
    experiment: Experiment,
    out: Path,
    error: AwaitingLabels,
    wall: float,
    backbone: dict[str, Any],
    reporter: Reporter,
) -> dict[str, Any]:
    """The run rests until people have labeled; everything so far is safe."""
    state = experiment.state
    number = (state.round if state else 0) + 1
    waiting = {"awaiting": {"round": number, "missing": error.missing, "asked": error.asked, "file": error.place}}
    summary = write_summary(out, config, "awaiting_labels", state, wall, backbone["image_size"][0], waiting)
    file = Path(error.place)
    if file.is_relative_to(out.resolve()):
        file = out / file.relative_to(out.resolve())  # as the user named the folder
    folder = file.parent
    if error.missing < error.asked:
        answered = error.asked - error.missing
        reporter.note(f"round {number}: {answered:,} of {error.asked:,} answers taken up, {error.missing:,} missing")
    reporter.note(
        f"round {number}: please label {error.missing:,} images: write a class, skip (can't tell) or ignore (none of "
        f"the classes) into the column 'label' of\n  {file}"
    )
    reporter.note(f"  the images: {folder / 'images'}/ and {folder / 'contact_sheet.png'}")
    reporter.note(f"then continue with the same command and --resume --out {out}")
    return summary


def _reopen(config: Config, dataset: Dataset, out: Path, experiment_id: str, reporter: Reporter) -> bool:
    """Whether a finished run is to be taken up again: a label was corrected since. Its last round is then repeated."""
    if config.labels.oracle != "file":
        return False
    oracle = components.build_oracle(oracle_input(config, dataset, out))
    try:
        changed = oracle.revise(experiment_id)
        if not changed and not any(
            c.corrected_at > (out / SUMMARY).stat().st_mtime for c in oracle.ledger.corrections()
        ):
            return False
    finally:
        oracle.ledger.close()
    # In this order a crash in between does it all again, and drops no further round.
    summary = read_json(out / SUMMARY)
    drop_checkpoint(out / "checkpoints", len(summary["rounds"]))
    write_json(out / SUMMARY, summary | {"status": "interrupted"})
    reporter.note("labels were corrected since the run finished: repeating its last round")
    return True


def _write_round(out: Path, state: RunState, names: PoolNames) -> None:
    write_rounds(out, state)
    write_labels(out, state, names)
    write_policy(out, state)


def _finished(out: Path) -> dict[str, Any] | None:
    path = out / SUMMARY
    if not path.exists():
        return None
    summary: dict[str, Any] = read_json(path)
    return summary if summary["status"] == "finished" else None


def _say_goodbye(config: Config, summary: dict[str, Any], state: RunState, out: Path, reporter: Reporter) -> None:
    reporter.console.print()
    table = rounds_table(state.rows, config.data.evaluate_on)
    reporter.console.print(table, width=None if reporter.console.is_terminal else 100)
    reporter.note(
        f"\n{_accuracy_text(summary, config)} with {summary['labels_used']:,} labels "
        f"({summary['labels_paid']:,} paid now), {duration(summary['wall_seconds'])}"
    )
    if summary["stopped"]:
        reporter.note(f"stopped early: {summary['stopped']}")
    reporter.note(f"results: {out}/ (summary.json, rounds.csv, labels.parquet, pool_predictions.parquet, ...)")
    reporter.note(f"picture: {out / 'learning_curve.png'}, {out / 'calibration.png'}")
    reporter.note(f"next:    psp-ray predict --run {out} IMAGES...   or   psp-ray export --run {out} --folders DIR")


def _accuracy_text(summary: dict[str, Any], config: Config) -> str:
    """What a run reached, in words: on the test set where there is one, and by the draws."""
    texts = []
    if summary["final_accuracy"] is not None:
        texts.append(
            f"zero-shot {percent(summary['zero_shot_accuracy'])} -> {percent(summary['final_accuracy'])} "
            f"{config.data.evaluate_on} accuracy"
        )
    estimate = summary.get("pool_accuracy_estimate")
    if telling(estimate):
        of = "" if estimate["round"] == len(summary["rounds"]) else f" after round {estimate['round']}"
        texts.append(f"pool accuracy{of} about {interval(estimate)}")
    return ", ".join(texts) or "accuracy unknown (no test set, and no estimate from the draws)"
