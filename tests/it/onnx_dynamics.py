"""Compares labels with onnxruntime's answers for the same windows.

Argument: a JSON list of cases with `onnx`, `weights`, `labels` and `shards` (digest -> path).
"""
import json, struct, sys

import numpy as np, onnx, onnxruntime as ort, pyarrow as pa, pyarrow.parquet as pq

COUNT = 1000


def frames_of(path):
    pixels = pa.ipc.open_file(path).read_all()["pixels"].combine_chunks()
    pixels = pixels if hasattr(pixels, "to_numpy_ndarray") else pixels.chunk(0)
    return pixels.to_numpy_ndarray()


def codebooks(path):
    """Reads the codebooks from the safetensors file, not from the ONNX file."""
    data = open(path, "rb").read()
    length = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8 : 8 + length])["idm.vq.embedding"]
    start, end = (8 + length + at for at in entry["data_offsets"])
    return np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])


def windows_of(case, time):
    shards = {digest: frames_of(path) for digest, path in case["shards"].items()}
    rows = pa.concat_tables(pq.read_table(path) for path in case["labels"]).slice(0, COUNT)
    assert rows.num_rows == COUNT, rows.num_rows
    frames = np.stack([
        shards[shard][row - time + 2 : row + 2]
        for shard, row in zip(rows["shard"].to_pylist(), rows["row"].to_pylist())
    ])
    latent = np.array(rows["latent_action"].to_pylist(), np.float32)
    return frames, latent, np.array(rows["latent_code"].to_pylist())


for case in json.loads(sys.argv[1]):
    model = onnx.load(case["onnx"])
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 17
    properties = {entry.key: entry.value for entry in model.metadata_props}
    config = json.loads(properties["lapo.weights.config"])
    assert properties["lapo.kind"] == "dynamics" and properties["lapo.version"]
    assert properties["lapo.weights.blake3"] == case["digest"], properties
    frames, latent, code = windows_of(case, config["context"] + 2)
    session = ort.InferenceSession(case["onnx"], providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"frames": frames[at : at + 300]}) for at in range(0, COUNT, 300)]
    answer, answer_code = (np.concatenate(part) for part in zip(*parts))
    assert answer_code.dtype == np.int64 and answer.shape == latent.shape
    difference = np.abs(answer - latent).max()
    assert difference < 1e-4 and latent.std(0).max() > 1e-3, (case["onnx"], difference)
    vq = config["vq"]
    ties = np.argwhere(answer_code != code)
    for window, column in ties:
        codebook, position = divmod(column, vq["positions"])
        shape = (vq["codebooks"], vq["dim"], vq["positions"])
        row = latent[window].reshape(shape)[codebook, :, position]
        distance = ((codebooks(case["weights"])[codebook] - row) ** 2).sum(1)
        pair = distance[[answer_code[window, column], code[window, column]]]
        assert abs(pair[0] - pair[1]) < 1e-5, (case["onnx"], window, column, pair)
    # A single window has the answer that it has in a batch.
    alone = session.run(None, {"frames": frames[:1]})[0]
    assert np.abs(alone - answer[:1]).max() < 1e-5
    used = len(np.unique(code))
    print(f"{case['onnx']}: {difference:.1e} at most, {len(ties)} ties, {used} codes")
