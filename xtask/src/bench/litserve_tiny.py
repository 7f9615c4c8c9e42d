"""The tiny model behind LitServe, set up for speed as its documentation says.

Called as: litserve_tiny.py PORT MODEL
"""

import sys

import litserve
import numpy
import onnxruntime


class Tiny(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        return numpy.asarray(request["features"], dtype=numpy.float32)

    def predict(self, features):
        return self.session.run(None, {"X": features})[0]

    def encode_response(self, output):
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Tiny(), accelerator="cpu", workers_per_device=2, fast_queue=True, disable_openapi_url=True
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
