import httpx

from tests.networks import LinearClassifier


def test_a_raw_tensor_gets_the_answer_of_the_graph(client: httpx.Client, network: LinearClassifier) -> None:
    images = network.images(1)

    response = client.post(
        "/v1/models/tiny/classify", content=images.tobytes(), headers={"content-type": "application/octet-stream"}
    )

    best = network.outputs(images)["probabilities"][0].max()
    assert abs(response.json()["results"][0]["predictions"][0]["probability"] - best) < 1e-6
