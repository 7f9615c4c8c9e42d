import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient("127.0.0.1:8080/models/iris/production/sync")
features = triton.InferInput("X", [1, 4], "FP32")
features.set_data_from_numpy(np.array([[5.1, 3.5, 1.4, 0.2]], np.float32))
answer = client.infer("iris", [features], headers={"Authorization": "Bearer KEY"})
print(answer.as_numpy("probabilities"))
