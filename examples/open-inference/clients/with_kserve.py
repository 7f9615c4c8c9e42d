import asyncio

from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main():
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    features = InferInput(name="X", shape=[1, 4], datatype="FP32", data=[[5.1, 3.5, 1.4, 0.2]])
    answer = await client.infer(
        "http://127.0.0.1:8080/models/iris/production/sync",
        InferRequest(model_name="iris", infer_inputs=[features]),
        model_name="iris",
        headers={"Authorization": "Bearer KEY"},
    )
    print(answer.outputs[0].as_numpy())


asyncio.run(main())
