import pytest
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.google_cloud.vertex_api import VertexApi


@pytest.mark.parametrize(
    ("project", "location", "message"),
    [
        (PROJECT, "", "location is missing"),
        ("{{$.pipeline_google_cloud_project_id}}", LOCATION, "only Vertex Pipelines knows"),
    ],
)
def test_a_place_that_is_not_known_is_refused(project, location, message):
    with pytest.raises(ParameterError, match=message):
        VertexApi(project=project, location=location)


def test_the_project_is_that_of_the_credentials(monkeypatch, tmp_path):
    with serve_vertex() as server:
        server.use_credentials(monkeypatch, tmp_path)
        api = VertexApi(project="", location=LOCATION, api_endpoint=server.rest)
    assert api.parent == f"projects/{PROJECT}/locations/{LOCATION}"
