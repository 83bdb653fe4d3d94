"""Reading and naming weights: safe formats only, hashed by content."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from psp_ray.core.errors import ModelError
from psp_ray.core.words import reason_of

_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Where training loops keep the state dict of what they save."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "clip.", "clip_model.")
"""What DistributedDataParallel, torch.compile, Lightning and other wrappers put in front of all names."""


def file_hash(path: str | Path) -> str:
    """BLAKE2b (128 bit, hex) of a file's content, remembered by path, size and modification time.

    Raises:
        ModelError: the file can't be read.
    """
    return _hash_content(*_stamp(path))


def _stamp(path: str | Path) -> tuple[str, int, int]:
    """(path, size, modification time in ns): what is remembered of a file holds while these stay."""
    resolved = Path(path).resolve()
    try:
        info = resolved.stat()
    except OSError as error:
        raise _missing(path) from error
    return str(resolved), info.st_size, info.st_mtime_ns


@lru_cache(maxsize=64)
def _hash_content(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def model_hash(weights: str, config: Mapping[str, Any]) -> str:
    """Name of a model's behavior: its weights and the architecture that reads them (activation included).

    The same tensors give other features under `quick_gelu`, so a cache must see both.
    """
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.blake2b(f"{weights}\x1f{text}".encode(), digest_size=16).hexdigest()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Tensors by name from a safetensors file or a plain PyTorch state dict; nothing is unpickled but tensors.

    What a file is, its first bytes say, not its name. Prefixes that wrappers leave on all names are taken off.

    Raises:
        ModelError: in one line: missing file, a JIT archive, damaged, or not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise _missing(path)
    kind = _kind(path)
    if kind == "safetensors":
        state = _read_safetensors(path)
    else:
        if kind == "zip" and _is_jit_archive(path):
            raise ModelError(
                f"--checkpoint {path} is a TorchScript (JIT) archive, which runs code; convert it once with "
                f"torch.save(torch.jit.load(PATH, map_location='cpu').state_dict(), 'weights.pt') and pass weights.pt"
            )
        state = _read_pickle(path)
    state = _unwrapped(state)
    for name in _OPENAI_EXTRAS:
        state.pop(name, None)
    if not state or not all(isinstance(name, str) and hasattr(tensor, "shape") for name, tensor in state.items()):
        raise ModelError(
            f"--checkpoint {path} holds no state dict of tensors; save model.state_dict() as safetensors and pass that"
        )
    return state


def _unwrapped(state: dict[Any, Any]) -> dict[Any, Any]:
    """The state dict inside of what training loops save, without the prefixes of their wrappers."""
    while (inner := next((name for name in _WRAPPERS if isinstance(state.get(name), dict)), None)) is not None:
        state = state[inner]
    prefix: str | None = ""
    while prefix is not None and state:
        state = {name[len(prefix) :]: tensor for name, tensor in state.items()} if prefix else dict(state)
        prefix = next((one for one in _PREFIXES if all(str(name).startswith(one) for name in state)), None)
    return state


def openai_form(path: str | Path) -> bool:
    """Whether a checkpoint is of the form that OpenAI published: such weights were trained with QuickGELU. Remembered.

    Raises:
        ModelError: as `read_checkpoint`.
    """
    return _openai_form(Path(path), _stamp(path))


@lru_cache(maxsize=64)
def _openai_form(path: Path, stamp: tuple[str, int, int]) -> bool:
    if _kind(path) == "safetensors":
        from safetensors import safe_open

        try:
            with safe_open(str(path), framework="np") as handle:
                names = set(handle.keys())
        except Exception as error:  # whatever a damaged header makes the library stumble over
            raise _unreadable(path, error) from error
    else:
        names = set(_unwrapped(_read_pickle(path))) if not _is_jit_archive(path) else set()
    return names.issuperset(_OPENAI_EXTRAS)


def safetensors_metadata(path: str | Path) -> dict[str, str]:
    """The string metadata in a safetensors header (empty for other files)."""
    if not Path(path).is_file() or _kind(Path(path)) != "safetensors":
        return {}
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="np") as handle:
            return dict(handle.metadata() or {})
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _kind(path: Path) -> str:
    """`safetensors`, `zip` (a PyTorch archive) or `pickle`, by the first bytes.

    Raises:
        ModelError: none of them, or the file can't be read.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as handle:
            head = handle.read(9)
    except OSError as error:
        raise _missing(path) from error
    if len(head) == 9 and head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head[:2] == b"PK":
        return "zip"
    if head[:1] == b"\x80":
        return "pickle"
    what = "is empty" if not size else "is neither safetensors nor a PyTorch state dict, or is damaged"
    raise ModelError(f"--checkpoint {path} {what}; pass a safetensors file or a state dict")


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    try:
        return dict(load_file(str(path)))
    except Exception as error:  # whatever a damaged header makes the library stumble over
        raise _unreadable(path, error) from error


def _read_pickle(path: Path) -> dict[Any, Any]:
    import pickle

    import torch

    try:
        with open(path, "rb") as handle:  # by its name, torch would take some files for what they are not
            state = torch.load(handle, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"--checkpoint {path} is damaged, or holds more than tensors and is not loaded; save its state dict as "
            f"safetensors and pass that"
        ) from error
    except Exception as error:  # torch's reader raises all kinds where an archive or a pickle is damaged
        raise _unreadable(path, error) from error
    if not isinstance(state, dict):
        raise ModelError(
            f"--checkpoint {path} holds a {type(state).__name__}, not a state dict; pass model.state_dict() as "
            f"safetensors"
        )
    return dict(state)


def _is_jit_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # to be named where it is read


def _missing(path: str | Path) -> ModelError:
    return ModelError(f"--checkpoint {path} does not exist or can't be read; check the path")


def _unreadable(path: str | Path, error: Exception) -> ModelError:
    return ModelError(
        f"--checkpoint {path} can't be read ({reason_of(error)}); pass a safetensors file or a state dict"
    )
