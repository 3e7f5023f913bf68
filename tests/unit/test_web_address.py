import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.web_address import check_web_address


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://localhost:8080",
            "https://kubeflow.example.com/pipeline",
            "http://my_host.",
            "http://127.0.0.1/v1?a=b@c",
        ),
        *("http://[::1]:8000", "http://[fe80::1%eth0]", "https://bücher.example"),
    ],
)
def test_takes_where_a_server_can_be(url):
    check_web_address(url, "--host")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "localhost:8080",
            "ftp://localhost",
            "http://",
            "http:/localhost",
            "http://:80",
            "http://[::1",
            "http://::1",
        ),
        *(
            "http://127.0.0.1:99999",
            "http://localhost:0",
            "http://localhost:x",
            "http://a b",
            "http://a\n",
            "http://a\x1b",
        ),
        *("http://a..b", f"http://{'a' * 64}.example", "http://a\\b", 'http://"a"'),
    ],
)
def test_names_an_address_where_none_can_be(url):
    with pytest.raises(ParameterError, match=r"^--host is .*; it must be a URL that begins with http:// or"):
        check_web_address(url, "--host")


@pytest.mark.parametrize(
    "url",
    [
        *("http://me:hunter2@localhost", "http://hunter2@localhost/v1", "http://@localhost", "me:hunter2@localhost"),
        *("http://me:hunter/2@localhost", "http://me:hunter2@[::1", "http://me:hunter2@localhost:99999"),
    ],
)
def test_a_password_is_refused_and_not_shown(url):
    with pytest.raises(ParameterError, match="--host holds a user name or a password") as raised:
        check_web_address(url, "--host")
    assert "hunter" not in str(raised.value)
