"""What a run hands back: a classifier, folders, tables, ONNX, open_clip."""
