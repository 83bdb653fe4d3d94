"""What a user may say about a model, and where its architecture, preprocessing and weights come from."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psp_ray.clip.architectures import BUNDLED, BUNDLED_FOLDER, known_models, model_config
from psp_ray.clip.preprocess import Preprocessing
from psp_ray.clip.weights import openai_form, safetensors_metadata
from psp_ray.core.errors import ModelError
from psp_ray.core.paths import is_file, local_path

_BUNDLED_PREPROCESSING = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "interpolation": "bicubic"}
_SCHEMAS = ("hf-hub:", "local-dir:")


@dataclass(frozen=True)
class BackboneSpec:
    """A model as the user names it. Field names are config keys."""

    model: str = BUNDLED
    """`psp-lite`, an open_clip `NAME` (with a checkpoint), `NAME/TAG`, `hf-hub:ORG/REPO` or `local-dir:PATH`."""
    checkpoint: str | None = None
    """Weights from a file: safetensors or a plain state dict. Wins over a tag, whose preprocessing is kept."""
    image_size: int | None = None
    """Side of the square input in pixels; None means the model's own."""
    precision: str = "auto"
    """Precision of the image tower: auto, fp32, fp16 or bf16. The text tower always runs in fp32."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`."""


@dataclass(frozen=True)
class ResolvedModel:
    """A spec with every name looked up: `name` for open_clip, its config, the weights file and preprocessing."""

    name: str
    tag: str
    config: dict[str, Any]
    weights: Path
    preprocessing: Preprocessing


def resolve(spec: BackboneSpec) -> ResolvedModel:
    """Look up the architecture and find the weights, downloading a hub's at most once. Doesn't build the model.

    Raises:
        ModelError: unknown name or tag, no weights, an unusable text tower, or a hub out of reach.
    """
    name, tag, config, preprocessing = _architecture(spec)
    refuse_text_tower(name, config)
    weights = _weights_path(spec, name, tag)
    if spec.checkpoint is not None:
        _require_activation(spec, name, config, weights)
        preprocessing = preprocessing | _sidecar(weights)
    elif name == BUNDLED:
        preprocessing = preprocessing | _embedded(weights)
    if spec.image_size is not None:
        if spec.image_size < 1:
            raise ModelError(f"--image-size {spec.image_size} must be at least 1")
        preprocessing["size"] = spec.image_size
    elif "size" not in preprocessing or name == BUNDLED:
        preprocessing["size"] = config["vision_cfg"].get("image_size", 224)
    return ResolvedModel(name, tag, config, weights, Preprocessing.from_dict(preprocessing))


def _require_activation(spec: BackboneSpec, name: str, config: dict[str, Any], weights: Path) -> None:
    """Raise a ModelError for weights of OpenAI's own form under a name that reads them with another activation."""
    twin = f"{name}-quickgelu"
    if config.get("quick_gelu") or model_config(twin) is None or not openai_form(weights):
        return
    raise ModelError(
        f"--model {spec.model}: the weights in {weights} are of OpenAI's form, which was trained with another "
        f"activation; use --model {twin}"
    )


def refuse_text_tower(name: str, config: dict[str, Any]) -> None:
    """Refuse text towers that can't take context vectors; the rest runs, if need be at full length.

    Raises:
        ModelError: a Hugging Face text tower, a class-embedding (CoCa) one, or an unknown pooling.
    """
    text = config.get("text_cfg", {})
    remedy = "choose a model with open_clip's own text tower, such as ViT-B-32-quickgelu/openai"
    if text.get("hf_model_name"):
        raise ModelError(f"--model {name} has a Hugging Face text tower ({text['hf_model_name']}); {remedy}")
    if text.get("embed_cls") or "multimodal_cfg" in config:
        raise ModelError(f"--model {name} pools its text at a class embedding (CoCa); {remedy}")
    pool = text.get("pool_type", "argmax")
    if pool not in ("argmax", "eos", "last", "first"):
        raise ModelError(f"--model {name} has a text tower with unknown pooling {pool!r}; {remedy}")


def _architecture(spec: BackboneSpec) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """(open_clip name, tag, model config, preprocessing overrides)."""
    model = spec.model.strip()
    for schema in _SCHEMAS:
        if model.startswith(schema):
            return _from_schema(model, schema)
    known = known_models()
    name, tag = _split(model, known)
    config = model_config(name)
    if config is None:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        raise ModelError(f"--model {model} is unknown; nearest matches: {', '.join(close) or 'none'}")
    if name == BUNDLED:
        if tag:
            raise ModelError(f"--model {model}: {BUNDLED} has no tags; use --model {BUNDLED}")
        return name, "", config, dict(_BUNDLED_PREPROCESSING)
    if not tag:
        return name, "", config, {}
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    pretrained = get_pretrained_cfg(name, tag)
    if not pretrained:
        tags = list_pretrained_tags_by_model(name)
        close = difflib.get_close_matches(tag, tags, n=3, cutoff=0.3) or tags[:3]
        raise ModelError(f"--model {model}: {name} has no tag {tag!r}; nearest: {', '.join(close) or 'none'}")
    if bool(pretrained.get("quick_gelu", False)) != bool(config.get("quick_gelu", False)):
        twin = name.removesuffix("-quickgelu") if name.endswith("-quickgelu") else f"{name}-quickgelu"
        raise ModelError(
            f"--model {model}: the weights {tag!r} were trained with another activation; use --model {twin}/{tag}"
        )
    keys = ("mean", "std", "interpolation", "resize_mode", "fill_color", "size")
    return name, tag, config, {key: pretrained[key] for key in keys if pretrained.get(key) is not None}


def _split(model: str, known: list[str]) -> tuple[str, str]:
    """Split NAME/TAG; `ViT-B/32` in old spelling is a name too."""
    if model.replace("/", "-") in known:
        return model.replace("/", "-"), ""
    head, _, tail = model.rpartition("/")
    return (head.replace("/", "-"), tail) if head else (model, "")


def _from_schema(model: str, schema: str) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    identifier = model.removeprefix(schema)
    if schema == "local-dir:":
        path = local_path(identifier) / "open_clip_config.json"
    else:
        with _hub(model) as download:
            path = Path(download(identifier, "open_clip_config.json"))
    document = _read_json(path, model)
    config, shown = document.get("model_cfg"), document.get("preprocess_cfg") or {}
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise ModelError(f"--model {model}: {path} has no model_cfg with embed_dim, vision_cfg and text_cfg")
    towers = (config["vision_cfg"], config["text_cfg"])
    if not all(isinstance(part, dict) for part in (*towers, shown)) or not isinstance(config["embed_dim"], int):
        raise ModelError(f"--model {model}: {path} is damaged (model_cfg or preprocess_cfg); restore it")
    return model, "", config, dict(shown)


def _weights_path(spec: BackboneSpec, name: str, tag: str) -> Path:
    if spec.checkpoint is not None:
        path = local_path(spec.checkpoint)
        if not is_file(path):
            raise ModelError(f"--checkpoint {path} does not exist or is not a file; check the path")
        return path
    if name == BUNDLED:
        path = BUNDLED_FOLDER / f"{BUNDLED}.safetensors"
        if not path.is_file():
            raise ModelError(f"the bundled model's weights are missing ({path.name}); reinstall psp-ray")
        return path
    if name.startswith("local-dir:"):
        return _find_in_folder(local_path(name.removeprefix("local-dir:")), name)
    if name.startswith("hf-hub:"):
        with _hub(name) as download:
            return Path(_first(download, name.removeprefix("hf-hub:")))
    if not tag:
        from open_clip.pretrained import list_pretrained_tags_by_model

        tags = list_pretrained_tags_by_model(name)
        example = f"--model {name}/{tags[0]} or " if tags else ""
        raise ModelError(f"--model {name} names no weights; use {example}--checkpoint PATH")
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    pretrained = get_pretrained_cfg(name, tag)
    with _hub(f"{name}/{tag}"):
        if _OFFLINE.get() and not pretrained.get("hf_hub"):
            raise FileNotFoundError(f"{name}/{tag} comes from an address")
        return Path(download_pretrained(pretrained))


_FILES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


def _find_in_folder(folder: Path, model: str) -> Path:
    present = [folder / file for file in _FILES if (folder / file).is_file()]
    present += sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.pt"))
    if not present:
        raise ModelError(f"--model {model}: no weights in {folder}; put an open_clip_model.safetensors there")
    return present[0]


def _first(download: Any, repository: str) -> str:
    from huggingface_hub.errors import EntryNotFoundError

    for file in _FILES:
        try:
            return str(download(repository, file))
        except EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{repository} has none of {', '.join(_FILES)}")


_OFFLINE: ContextVar[bool] = ContextVar("offline", default=False)


@contextmanager
def offline(yes: bool = True) -> Iterator[None]:
    """Models come from this machine alone in here, a hub's cache included; nothing is downloaded."""
    token = _OFFLINE.set(yes)
    try:
        yield
    finally:
        _OFFLINE.reset(token)


@contextmanager
def _hub(model: str) -> Iterator[Any]:
    """Fetch from a hub with short timeouts, and turn every failure into one line with the remedy."""
    import socket

    # huggingface_hub reads these at import, so they are set before it; a user's own values win.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    from huggingface_hub import constants, hf_hub_download

    def download(repository: str, file: str) -> str:
        return str(hf_hub_download(repo_id=repository, filename=file))

    timeout, was_offline = socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE
    socket.setdefaulttimeout(10.0)
    # Its client retries for minutes where nothing answers; offline it looks into its cache and fails at once.
    constants.HF_HUB_OFFLINE = was_offline or _OFFLINE.get() or not _answers(constants.ENDPOINT)
    try:
        yield download
    except ModelError:
        raise
    except Exception as error:  # whatever a network or a hub client may raise
        if _OFFLINE.get():
            raise ModelError(
                f"--model {model} is not on this machine, and a file may name any model: add --allow-hub to download "
                "it, or give --checkpoint PATH"
            ) from None
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise ModelError(
            f"--model {model} is not cached here and can't be downloaded ({text}); download its weights elsewhere and "
            f"pass --checkpoint PATH"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        socket.setdefaulttimeout(timeout)


def _answers(endpoint: str) -> bool:
    """Whether a server answers at all within seconds; name resolution, which ignores timeouts, included."""
    import threading
    import urllib.error
    import urllib.request

    answered = threading.Event()

    def probe() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=5).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError):
            return
        answered.set()

    worker = threading.Thread(target=probe, daemon=True)
    worker.start()
    worker.join(8.0)
    return answered.is_set()


def _sidecar(weights: Path) -> dict[str, Any]:
    """Preprocessing beside a checkpoint: in its safetensors header or in `open_clip_config.json` next to it."""
    beside = weights.parent / "open_clip_config.json"
    found = _read_json(beside, str(beside)).get("preprocess_cfg") or {} if beside.is_file() else {}
    if not isinstance(found, dict):
        raise ModelError(f"{beside}: preprocess_cfg is no JSON object; restore it")
    return found | _embedded(weights)


def _embedded(weights: Path) -> dict[str, Any]:
    text = safetensors_metadata(weights).get("preprocess_cfg")
    if text is None:
        return {}
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{weights} has a malformed preprocess_cfg in its header; write it as JSON") from error


def _read_json(path: Path, model: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"--model {model}: {path} is missing or unreadable; check the path") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"--model {model}: {path} is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise ModelError(f"--model {model}: {path} is not a JSON object")
    return document
