"""The served report, over real sockets; without a browser."""

import http.client
import json
import threading

import pytest
import torch

from backsplit.cli import main
from backsplit.cli.page import Rebuilding
from backsplit.experiments.paths import Workspace
from backsplit.nnunet.runrecord import read_run_record, write_run_record
from backsplit.report import ReportServer


@pytest.fixture
def server(tmp_path):
    (tmp_path / "index.html").write_text("<p>one</p>")
    (tmp_path / "cases").mkdir()
    with ReportServer(tmp_path, 0) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield opened
        opened.shutdown()


def get(server, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_page_and_state_are_served_and_nothing_else(server):
    server.build = "b2"
    assert get(server, "/index.html") == (200, "<p>one</p>")
    assert get(server, "/state.js?1") == (200, 'document.documentElement.dataset.build = "b2";\n')
    assert get(server, "/cases/")[0] == 404
    assert get(server, "/../../etc/passwd")[0] == 404


def test_a_page_elsewhere_cannot_borrow_the_name(server):
    assert get(server, "/index.html", host="evil.example")[0] == 403
    assert get(server, "/state.js", host="evil.example:80")[0] == 403
    assert get(server, "/index.html", host=f"localhost:{server.server_port}")[0] == 200


def test_unfinished_workspace_says_how_far_it_is(tmp_path):
    workspace = Workspace(tmp_path)
    log = tmp_path / "results" / "Dataset001_x" / "BackSplitTrainer__binary__3d_fullres" / "fold_0" / "progress.csv"
    log.parent.mkdir(parents=True)
    log.write_text("epoch,pseudo_dice_target\n0,0.1\n1,0.25\n")
    rebuilding = Rebuilding(workspace, 1)
    first = rebuilding.rebuild()
    page = workspace.report.read_text()
    assert "nothing is evaluated" in page
    assert "2 epochs, pseudo-Dice of the target 0.250" in page
    assert rebuilding.rebuild() == first
    log.write_text("epoch,pseudo_dice_target\n0,0.1\n1,0.25\n2,0.5\n")
    assert rebuilding.rebuild() != first
    assert "3 epochs" in workspace.report.read_text()


def test_provenance_of_a_run_is_kept(tmp_path):
    assert read_run_record(tmp_path) == {}
    write_run_record(torch.nn.Linear(3, 2), torch.device("cpu"), 1, tmp_path)
    record = read_run_record(tmp_path)
    assert record["parameters"] == 8
    assert record["device"] == "cpu"
    assert record == json.loads((tmp_path / "run.json").read_text())


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--single-file", "study.html"], "leave out --single-file"), (["--port", "PORT"], "choose another --port")],
)
def test_what_cannot_be_served_is_said_in_one_line(server, tmp_path, capsys, options, told):
    given = [str(server.server_port) if each == "PORT" else each for each in options]
    assert main(["report", str(tmp_path / "none"), "--serve", *given]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
