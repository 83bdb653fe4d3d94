"""The bundled CLIP model ``psp-lite``: the asset (``psp-lite.json``, ``psp-lite.safetensors``), its model
card, its builder (``python -m psp_ray.clip.psp_lite.builder.build``) and its evaluation (``...evaluate``).

Nothing here is imported to *use* the model: open_clip loads the two files.
"""
