"""The description of the service, and what a machine that reads it can find."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st

schemathesis = pytest.importorskip("schemathesis")

STATUSES = ["2xx", "400", "404", "413", "415", "422"]  # a file that is no sound fits the description: 422
PATHS = [
    "/v1/predict",
    "/v1/timeline",
    "/v1/explain",
    "/v1/models",
    "/v1/models/{name}",
    "/healthz",
    "/metrics",
]
CONFIG = schemathesis.Config.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": STATUSES}}})


@pytest.fixture(scope="session", autouse=True)
def _sounds(encode, make_speech):
    """Files that are made up for a form are sounds as often as not."""
    sounds = [encode(make_speech(seed, 0.4), format=format) for seed, format in enumerate(("WAV", "FLAC", "OGG"))]
    schemathesis.openapi.format("binary", st.sampled_from(sounds) | st.binary(max_size=100))


MODES = [(path, "positive") for path in PATHS] + [(path, "negative") for path in PATHS[:5] if path != "/v1/models"]


@pytest.mark.parametrize(("path", "mode"), MODES)
def test_the_service_does_what_it_describes(service, path, mode):
    headers = {"Authorization": f"Bearer {service.token}"}
    schema = schemathesis.openapi.from_url(f"{service.address}/openapi.json", headers=headers, config=CONFIG)
    (operation,) = [one.ok() for one in schema.get_all_operations() if one.ok().path == path]

    @hypothesis.settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def check(case):
        case.call_and_validate(headers=headers)

    check()


def test_every_route_is_described_with_an_example(service):
    description = service.get("/openapi.json").json
    assert set(description["paths"]) == set(PATHS)
    for name, answer in description["components"]["schemas"].items():
        if name.endswith(("Row", "Summary", "Detail")):
            assert "examples" in json.dumps(answer), name
    for path, operations in description["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["security"] == ([] if path == "/healthz" else [{"token": []}])


def test_pages_that_load_from_elsewhere_are_off(service):
    assert service.get("/docs").status == 404
    assert service.get("/redoc").status == 404
