"""The scripts that lie beside exported models: they need no psp_ray, and say what `psp-ray predict` says."""

from __future__ import annotations

from pathlib import Path

from psp_ray.core.files import write_text
from psp_ray.data import decoding


def write_script(target: Path, script: str) -> None:
    """`predict.py`, and the decoder that it imports: the very file that psp-ray itself uses."""
    write_text(target / "predict.py", script)
    write_text(target / "decoding.py", Path(decoding.__file__).read_text(encoding="utf-8"))


OPEN_CLIP_SCRIPT = """import csv, json, pathlib, sys
import open_clip, torch
from decoding import ImageError, decode  # the file beside this one: images are read as psp-ray predict reads them
from safetensors.torch import load_file

here = pathlib.Path(__file__).resolve().parent
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{here}")
prompts, classes = load_file(here / "prompts.safetensors"), json.loads((here / "classes.json").read_text("utf-8"))
table = csv.writer(sys.stdout, lineterminator="\\n")
for path in sys.argv[1:]:
    try:
        image = preprocess(decode(pathlib.Path(path).read_bytes()))
    except (ImageError, OSError) as error:
        print(f"{path}: left out, {error}", file=sys.stderr)
        continue
    with torch.no_grad():
        features = model.eval().encode_image(image[None], normalize=True)
    chances = (prompts["scale"] * features @ prompts["class_embeddings"].T + prompts["bias"]).softmax(-1)[0]
    table.writerow([path, classes[chances.argmax()], f"{chances.max():.4f}"])
"""

ONNX_SCRIPT = """import csv, json, pathlib, sys, types
import numpy as np, onnxruntime
from decoding import ImageError, center_view, decode  # the file beside this one: images are read as by psp-ray predict

here = pathlib.Path(__file__).resolve().parent
about = json.loads((here / "classifier.json").read_text("utf-8"))
how = types.SimpleNamespace(**about["preprocessing"])
session = onnxruntime.InferenceSession(str(here / "image_tower.onnx"), providers=["CPUExecutionProvider"])
table = csv.writer(sys.stdout, lineterminator="\\n")
for path in sys.argv[1:]:
    try:
        pixels = center_view(decode(pathlib.Path(path).read_bytes()), how).transpose(2, 0, 1)
    except (ImageError, OSError) as error:
        print(f"{path}: left out, {error}", file=sys.stderr)
        continue
    features, chances = session.run(None, {"pixels": pixels[None]})
    table.writerow([path, about["classes"][chances[0].argmax()], f"{chances[0].max():.4f}"])
"""
