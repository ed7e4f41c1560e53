"""A server of decisions, for engines that cannot load ONNX."""
