"""Compares a network's outputs with onnxruntime's, for the same inputs.

Argument: a JSON list of cases with `onnx`, `input` (raw bytes) and `outputs` (name -> raw floats).
"""
import json, sys

import numpy as np, onnx, onnxruntime as ort

for case in json.loads(sys.argv[1]):
    model = onnx.load(case["onnx"])
    onnx.checker.check_model(model, full_check=True)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["lapo.kind"] == case["kind"], properties
    session = ort.InferenceSession(case["onnx"], providers=["CPUExecutionProvider"])
    port = session.get_inputs()[0]
    dtype = np.uint8 if port.type == "tensor(uint8)" else np.float32
    assert port.shape[0] == "batch", port.shape
    inputs = np.fromfile(case["input"], dtype).reshape(-1, *port.shape[1:])
    assert len(inputs) == case["count"], len(inputs)
    names = [output.name for output in session.get_outputs()]
    answers = dict(zip(names, session.run(None, {port.name: inputs})))
    for name, path in case["outputs"].items():
        expected = np.fromfile(path, np.float32).reshape(answers[name].shape)
        difference = np.abs(answers[name] - expected).max()
        assert difference < 1e-4 and expected.std() > 1e-4, (case, name, difference)
        print(f"{case['onnx']} {name}: {difference:.1e} at most")
