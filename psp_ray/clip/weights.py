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

_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def file_hash(path: str | Path) -> str:
    """BLAKE2b (128 bit, hex) of a file's content, remembered by path, size and modification time.

    Raises:
        ModelError: the file can't be read.
    """
    resolved = Path(path).resolve()
    try:
        info = resolved.stat()
    except OSError as error:
        raise _missing(path) from error
    return _hash_content(str(resolved), info.st_size, info.st_mtime_ns)


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

    Raises:
        ModelError: missing file, a JIT archive, or not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise _missing(path)
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    else:
        if _is_jit_archive(path):
            raise ModelError(
                f"--checkpoint {path} is a TorchScript (JIT) archive, which runs code; convert it once with "
                f"torch.save(torch.jit.load(PATH, map_location='cpu').state_dict(), 'weights.pt') and pass weights.pt"
            )
        state = _read_pickle(path)
    for wrapper in ("state_dict", "model_state_dict"):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for name in _OPENAI_EXTRAS:
        state.pop(name, None)
    if not state or not all(hasattr(tensor, "shape") for tensor in state.values()):
        raise ModelError(
            f"--checkpoint {path} holds no state dict of tensors; save model.state_dict() as safetensors and pass that"
        )
    return state


def safetensors_metadata(path: str | Path) -> dict[str, str]:
    """The string metadata in a safetensors header (empty for other files)."""
    if Path(path).suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as handle:
            return dict(handle.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(str(path)))
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_pickle(path: Path) -> dict[str, Any]:
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"--checkpoint {path} holds more than tensors and is not loaded; save its state dict as safetensors and "
            f"pass that"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(state, dict):
        raise ModelError(
            f"--checkpoint {path} holds a {type(state).__name__}, not a state dict; pass model.state_dict() as "
            f"safetensors"
        )
    return dict(state)


def _is_jit_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def _missing(path: str | Path) -> ModelError:
    return ModelError(f"--checkpoint {path} does not exist or can't be read; check the path")


def _unreadable(path: str | Path, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(f"--checkpoint {path} can't be read ({reason[:200]}); pass a safetensors file or a state dict")
