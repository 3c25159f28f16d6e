"""The four artefacts as they are on disk: schemas, atomic writing, hashing. No torch, no ONNX."""
