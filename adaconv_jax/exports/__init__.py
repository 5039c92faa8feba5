"""Models as files for other runtimes: ONNX, StableHLO and TensorFlow Lite."""
