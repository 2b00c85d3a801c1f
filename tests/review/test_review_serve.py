"""The live page answers this machine's own browser with the token, and nobody and nothing else."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.parse

import pytest
from support.make_runs import make_group, make_run
from support.review_server import ADDRESS, TOKEN, served

pytest.importorskip("plotly")
pytest.importorskip("uvicorn")

from rlresearch.review.__main__ import main
from rlresearch.review.cli import parse
from rlresearch.review.web import serve, videos

SECRET = "the-secret-of-another-file"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs, and what must never be served: a file beside them, a link to it, a pipe."""
    root = tmp_path_factory.mktemp("serve")
    (root / "secret.txt").write_text(SECRET)
    make_group(root / "runs", "ddpg", [-1.0, -2.0])
    path = make_run(root / "runs", "td3", status="failed")
    (path / "log.txt").unlink()
    (path / "log.txt").symlink_to(root / "secret.txt")
    (path / "metrics.jsonl").unlink()
    os.mkfifo(path / "metrics.jsonl")
    (root / "runs" / "out").symlink_to("/etc", target_is_directory=True)
    return root / "runs"


@pytest.fixture(scope="module")
def port(folder):
    with served(folder) as port:
        yield port


def ask(port, target="/", method="GET", at=ADDRESS, **headers):
    """(status, headers, body) of a request written as it is; `Host` is right unless given."""
    connection = http.client.HTTPConnection(at, port, timeout=30)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in ({"Host": f"127.0.0.1:{port}"} | headers).items():
        if value is not None:
            connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def raw(port, request: bytes) -> bytes:
    with socket.create_connection((ADDRESS, port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


def test_the_address_that_was_printed_opens_the_page(port):
    status, headers, _ = ask(port, f"/?token={TOKEN}")
    assert status == 303 and headers["location"] == "/"
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    status, headers, page = ask(port, "/", Cookie=cookie.partition(";")[0])
    assert status == 200 and b"connect-src 'self'" in page and b"ddpg pendulum" not in page
    body = ask(port, "/data.json", Cookie=cookie.partition(";")[0])[2]
    assert json.loads(body)["groups"][0]["label"] == "ddpg pendulum"
    wanted = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "cache-control": "no-store"}
    assert wanted.items() <= headers.items() and "server" not in headers
    assert ask(port, f"/data.json?token={TOKEN}", "HEAD")[0] == 200


def test_new_runs_are_seen_and_nothing_is_sent_twice(port, folder):
    status, _, body = ask(port, f"/data.json?token={TOKEN}")
    before = json.loads(body)
    assert status == 200 and before["count"] == 3
    assert ask(port, f"/data.json?token={TOKEN}&have={before['mark']}")[0] == 204
    make_run(folder, "sac", seed=9)
    status, _, body = ask(port, f"/data.json?token={TOKEN}&have={before['mark']}")
    assert status == 200 and json.loads(body)["count"] == 4


ROUTES = ("/", "/data.json", "/metric.json", "/run.json", "/video")
HOSTS = [
    *("evil.example", "evil.example:PORT", "127.0.0.1.evil.example", "localhost.evil.example", "evil.localhost"),
    *("127.0.0.2", "127.1", "0.0.0.0", "0", "2130706433", "0x7f000001", "017700000001", "127.0.0.1.", "localhost."),
    *("[::ffff:127.0.0.1]", "::1", "[::]", "127.0.0.1@evil.example", "evil.example#127.0.0.1", "127.0.0.1 x.example"),
    *("", ":PORT", "127.0.0.1:x", "127.0.0.1:-1", "localhost:\u0661", "xn--localhost-x", "127.0.0.1,evil.example"),
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_host_is_refused(port, host):
    host = host.replace("PORT", str(port))
    for route in ROUTES:
        answer = raw(port, f"GET {route}?token={TOKEN} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert answer.split(b" ")[1] in (b"421", b"400"), answer[:200]
        assert TOKEN.encode() not in answer


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:PORT", "127.0.0.1", "[::1]:PORT", "localhost:1"])
def test_this_machine_may_be_called_by_its_names(port, host):
    assert ask(port, f"/data.json?token={TOKEN}", Host=host.replace("PORT", str(port)))[0] == 200


def test_two_hosts_or_none_are_refused(port):
    line = f"GET /?token={TOKEN} HTTP/1.1\r\n"
    for hosts in ("", f"Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n", "Host: localhost\r\nHost: localhost\r\n"):
        assert raw(port, f"{line}{hosts}\r\n".encode()).split(b" ")[1] in (b"421", b"400")
    assert raw(port, f"GET /?token={TOKEN} HTTP/1.0\r\n\r\n".encode()).split(b" ")[1] in (b"421", b"400")


ORIGINS = [
    *("http://evil.example", "https://127.0.0.1:PORT", "http://127.0.0.1:1", "null", "http://localhost:PORT", "", "x"),
    *(
        "http://127.0.0.1:PORT.evil.example",
        "http://127.0.0.1:PORT/",
        "file://",
        "http://[::1]:PORT",
        "http://127.0.0.1",
    ),
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_pages_origin_is_refused(port, origin):
    for route in ROUTES:
        assert ask(port, f"{route}?token={TOKEN}", Origin=origin.replace("PORT", str(port)))[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "SAME-ORIGIN2"])
def test_a_request_that_another_page_began_is_refused(port, site):
    assert ask(port, f"/?token={TOKEN}", Sec_Fetch_Site=site)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
def test_only_get_and_head_are_methods(port, method):
    for route in ROUTES:
        request = f"{method} {route}?token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
        assert raw(port, request.encode()).split(b" ")[1] in (b"405", b"400")


TOKENS = [None, "", "t", TOKEN[:-1], TOKEN + "t", TOKEN.upper(), "%00", "null", "\u0442" * 43, "*", "' or 1=1"]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("where", ["query", "cookie", "bearer"])
def test_without_the_token_there_is_nothing(port, token, where):
    name = serve.AuthMiddleware(None, TOKEN).cookie_name
    if where == "query":
        found = ask(port, "/" if token is None else f"/?token={urllib.parse.quote(token)}")
    elif where == "cookie":
        found = ask(port, "/", Cookie=None if token is None else f"{name}={token}".encode())
    else:
        found = ask(port, "/data.json", Authorization=f"Bearer {TOKEN}", X_Token=TOKEN)
    assert found[0] == 403 and b"ddpg" not in found[2] and TOKEN.encode() not in found[2]


UP = ["..", "%2e%2e", ".%2e", "%2E.", "..%00", "..;", "%252e%252e", "..%c0%af", "%c0%ae%c0%ae", "....", "\\..", "..%5c"]
PATHS = [
    *(f"/{up}/{up}/{up}/etc/passwd" for up in UP),
    *(f"/{up}%2f{up}%2fsecret.txt" for up in UP),
    *("//etc/passwd", "/etc/passwd", "/./secret.txt", "/runs/../../secret.txt", "/data.json/../../secret.txt"),
    *("/data.json/", "/data.json%00.html", "/DATA.JSON", "/static/page.js", "/page.js", "/%2fetc%2fpasswd", "/index"),
    *("/file:///etc/passwd", "http://evil.example/", "/out/passwd", "/?path=../secret.txt", "/data.json;x", "/\u00e9"),
]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_no_path_leads_to_a_file(port, path):
    sign = "&" if "?" in path else "?"
    request = f"GET {path}{sign}token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
    answer = raw(port, request.encode())
    status = answer.split(b" ")[1]
    assert status in (b"404", b"400", b"303"), answer[:200]
    assert SECRET.encode() not in answer and b"root:" not in answer
    assert status != b"303" or b"location: /\r\n" in answer


def test_links_and_pipes_in_a_run_are_not_followed(port):
    body = ask(port, f"/data.json?token={TOKEN}")[2]
    assert SECRET.encode() not in body and b"root:" not in body


@pytest.mark.parametrize(
    "request_text",
    [
        f"GET /?token={TOKEN}&{'x' * 5000} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET /{'x' * 5000}?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET /?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\nX: {'x' * 200_000}\r\n\r\n",
        f"GET /?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
        f"GET /?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        f"GET /?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"GET /?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        "nonsense\r\n\r\n",
        "\0" * 100,
        "GET",
    ],
    ids=range(10),
)
def test_what_is_oversized_or_nonsense_is_no_server_error(port, request_text):
    try:
        answer = raw(port, request_text.encode())
    except OSError:  # the connection was closed in the middle of it
        answer = b""
    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"431"), answer[:200]
    assert ask(port, f"/data.json?token={TOKEN}")[0] == 200


def test_slow_requests_do_not_keep_others_out(port):
    waiting = [socket.create_connection((ADDRESS, port)) for _ in range(100)]
    for each in waiting:
        each.sendall(b"GET / HTTP/1.1\r\nHost: loc")
    assert ask(port, f"/data.json?token={TOKEN}")[0] == 200
    for each in waiting:
        each.close()


def test_a_request_that_does_not_end_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(serve, "PATIENCE_S", 0.1)
    with served(folder) as port, socket.create_connection((ADDRESS, port), timeout=10) as waiting:
        for letter in b"GET":
            waiting.sendall(bytes([letter]))
        assert waiting.recv(1) == b""
        assert ask(port, f"/data.json?token={TOKEN}")[0] == 200


def _data(port, **wish):
    answer = ask(port, f"/data.json?{urllib.parse.urlencode({'token': TOKEN, **wish})}")
    return answer[0], json.loads(answer[2])


def test_runs_are_filtered_and_grouped_as_the_address_says(tmp_path):
    make_group(tmp_path, "ddpg", [-1.0, -2.0], settings={"optimizer.lr": 0.01})
    make_group(tmp_path, "td3", [-3.0, -4.0])
    make_run(tmp_path, "sac", status="failed")
    with served(tmp_path) as port:
        status, data = _data(port, by="lr")
        assert [group["label"] for group in data["groups"]] == ["lr=0.01", "lr=0.001"]
        data = _data(port, filter="algo!=td3 _s1_")[1]
        assert (data["count"], data["total"]) == (1, 5)
        assert [group["label"] for group in data["groups"]] == ["ddpg pendulum"]
        assert "sac pendulum" in [group["label"] for group in _data(port, all="1")[1]["groups"]]
        status, data = _data(port, filter="algoo=ddpg")
        assert status == 422 and "did you mean 'algo'" in data["problem"]
        assert _data(port, by="x" * 501)[0] == 422
        metric = json.loads(ask(port, f"/metric.json?token={TOKEN}&name=loss/critic&by=lr")[2])
        assert len(metric["groups"]) == 2 and len(metric["runs"]) == 5
        assert ask(port, f"/metric.json?token={TOKEN}&name=loss/nothing")[0] == 404


def test_one_run_closely(port, folder):
    data = _data(port, filter="algo=ddpg")[1]
    run = json.loads(ask(port, f"/run.json?token={TOKEN}&run={data['own']['id'][0]}")[2])
    assert run["metrics"]["loss/critic"][1][0] == 1.0 and len(run["evaluations"]) == 5
    assert [len(returns) for _, _, returns in run["evaluations"]] == [4] * 5
    for nobody in ("", "0" * 16, "../../secret.txt", data["own"]["key"][0]):
        assert ask(port, f"/run.json?token={TOKEN}&run={urllib.parse.quote(nobody)}")[0] == 404


def test_videos_are_served_from_the_listing_alone(tmp_path):
    path = make_run(tmp_path / "runs", "ddpg")
    (path / "videos").mkdir()
    for step in (500, 1000, 20):
        (path / "videos" / f"step_{step}.mp4").write_bytes(f"film {step}".encode())
    (tmp_path / "secret.mp4").write_text(SECRET)
    (path / "videos" / "step_9000.mp4").symlink_to(tmp_path / "secret.mp4")
    os.mkfifo(path / "videos" / "step_9001.mp4")
    linked = make_run(tmp_path / "runs", "ddpg", seed=1)
    (linked / "videos").symlink_to(tmp_path, target_is_directory=True)
    with served(tmp_path / "runs") as port:
        data = _data(port)[1]
        assert list(data["videos"].values()) == [["step_20.mp4", "step_500.mp4", "step_1000.mp4"]]
        at = data["own"]["name"].index(path.name)
        where = f"/video?token={TOKEN}&run={data['own']['id'][at]}&at="
        status, headers, film = ask(port, f"{where}2")
        assert (status, film, headers["content-type"]) == (200, b"film 1000", "video/mp4")
        status, headers, film = ask(port, f"{where}2", Range="bytes=5-6")
        assert (status, film, headers["content-range"]) == (206, b"10", "bytes 5-6/9")
        assert ask(port, f"{where}2", Range="bytes=5-")[2] == b"1000"
        assert ask(port, f"{where}2", Range="bytes=9-")[0] == 416
        assert ask(port, f"{where}2", "HEAD")[0] == 200
        for nothing in ("3", "-1", "", "x", "1.0", "\u0661", "9" * 100, "../x"):
            assert ask(port, where + urllib.parse.quote(nothing))[0] == 404, nothing
        other = f"/video?token={TOKEN}&run={data['own']['id'][1 - at]}&at="
        assert ask(port, f"{other}0")[0] == 404


@pytest.mark.parametrize("become", ["a link", "a pipe", "a folder", "nothing", "a link above it"])
def test_a_video_that_became_something_else_after_it_was_listed_is_not_opened(tmp_path, become):
    folder, other = tmp_path / "videos", tmp_path / "other"
    for each in (folder, other):
        each.mkdir()
        (each / "x.mp4").write_text(SECRET)
    assert videos.names(tmp_path) == ["x.mp4"]
    if become == "a link above it":
        shutil.rmtree(folder)
        folder.symlink_to(other, target_is_directory=True)
    else:
        (folder / "x.mp4").unlink()
        makers = {"a link": lambda at: at.symlink_to(other / "x.mp4"), "a pipe": os.mkfifo, "a folder": os.mkdir}
        makers.get(become, lambda at: None)(folder / "x.mp4")
    with pytest.raises(OSError):
        videos.open_video(tmp_path, "x.mp4")


def test_a_port_that_is_taken_is_one_line(folder, capsys):
    with socket.create_server((ADDRESS, 0)) as taken:
        assert main(["serve", "--runs-dir", str(folder), "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another" in capsys.readouterr().err
    assert main(["serve", "--runs-dir", str(folder), "--port", "99999"]) == 2
    assert main(["serve", "--runs-dir", str(folder), "--bind", "example.org"]) == 2
    assert "must be an address" in capsys.readouterr().err
    assert main(["serve", "--runs-dir", str(folder), "--bind", "192.0.2.1"]) == 2
    assert "it is none of this machine" in capsys.readouterr().err


def test_it_listens_on_the_loopback_address_unless_told(folder):
    assert parse("serve", []).bind == ADDRESS
    code = "import sys; from rlresearch.review.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", "--runs-dir", str(folder), "--no-cache"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline()
            port = int(re.match(r"http://127\.0\.0\.1:(\d+)/\?token=[\w-]{43}$", address)[1])
            listening = {line.split()[1] for line in open("/proc/net/tcp") if line.split()[3] == "0A"}
            assert f"0100007F:{port:04X}" in listening and f"00000000:{port:04X}" not in listening
        finally:
            server.terminate()


def test_opened_to_a_network_it_keeps_the_token_and_knows_its_names(folder):
    """127.0.0.2 stands for the network's address: this machine's, but none of loopback's own names."""
    with served(folder, names=("lab.example",), bind="127.0.0.2") as port:
        target = f"/data.json?token={TOKEN}"
        for host, status in (("127.0.0.2", 200), ("LAB.example", 200), ("evil.example", 421), ("localhost", 421)):
            assert ask(port, target, Host=f"{host}:{port}", at="127.0.0.2")[0] == status, host
        assert ask(port, "/data.json", Host=f"127.0.0.2:{port}", at="127.0.0.2")[0] == 403
