"""The Python client against a running service."""

import io

import numpy as np
import pytest

import undertone
from undertone.client import Client, ServiceError
from undertone.formats import timeline_to_dict
from undertone.stream import Stream


@pytest.fixture
def client(service):
    return Client(service.address, token=service.token, timeout_s=20)


def test_predict_takes_a_path_bytes_an_open_file_or_several(client, recognizer, clip, tmp_path):
    path = tmp_path / 'a "clip".wav'
    path.write_bytes(clip)
    with path.open("rb") as file:
        rows = client.predict([path, clip, file])
    assert [row["filename"] for row in rows] == ["a %22clip%22.wav", "sound", "a %22clip%22.wav"]
    expected = recognizer.predict(path)
    assert {row["emotion"] for row in rows} == {expected.emotion}
    assert client.predict(str(path)) == rows[:1]
    assert client.predict(io.BytesIO(clip), model="tiny")[0]["probs"] == rows[0]["probs"]


def test_a_bad_clip_is_a_row_also_when_it_is_the_only_one(client, clip):
    (row,) = client.predict(b"no sound")
    assert "is text" in row["error"]
    assert [row["error"] is None for row in client.predict([clip, b"no sound"])] == [True, False]


def test_timeline_and_explanation(client, recognizer, clip):
    expected = timeline_to_dict(undertone.timeline(recognizer, clip))
    assert client.timeline(clip) == {**expected, "path": "sound"}
    assert client.timeline(clip, format="vtt").startswith("WEBVTT")
    assert client.explain(clip, emotion="anger")["emotion"] == "anger"


def test_stream(client, recognizer, make_speech):
    sound = np.rint(make_speech(1, 1.7) * 32_767).astype("<i2")
    chunks = [sound[start : start + 3_000].tobytes() for start in range(0, len(sound), 3_000)]
    updates = list(client.stream(chunks, hop_s=0.4, model="tiny"))
    stream = Stream(recognizer, hop_s=0.4)
    expected = [*stream.feed(sound), *stream.finish()]
    assert [update["end_s"] for update in updates] == [round(update.end_s, 3) for update in expected]
    assert [update["emotion"] for update in updates] == [update.emotion for update in expected]


def test_a_stream_that_is_refused_says_why(client):
    with pytest.raises(ServiceError, match="101 bytes"):
        list(client.stream([bytes(101)]))
    with pytest.raises(ServiceError, match="no model"):
        list(client.stream([], model="nobody"))


def test_models(client, recognizer):
    assert client.models()["default"] == "tiny"
    assert client.card("tiny")["labels"] == list(recognizer.labels)


def test_a_refusal_is_an_error_with_what_to_do(client, clip):
    with pytest.raises(ServiceError, match="more than 3 files") as caught:
        client.predict([clip] * 4)
    assert (caught.value.status, caught.value.code, caught.value.limit) == (413, "too_many_files", "max_files")
    assert caught.value.retry_after_s is None
    with pytest.raises(ServiceError, match="token") as caught:
        Client(client.address, token="wrong-token").models()
    assert caught.value.status == 401


def test_no_service_at_all():
    with pytest.raises(ServiceError, match="no answer"):
        Client("http://127.0.0.1:9", timeout_s=2).models()
    with pytest.raises(ValueError, match="http://"):
        Client("localhost:8000")
