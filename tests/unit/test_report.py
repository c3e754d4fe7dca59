"""Reports without a browser: the block of data, the policy, commands, warnings, what is refused, the built files."""

import base64
import gzip
import hashlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import Ask
from edge_circuits import origin, random_circuit
from reported import TABLE, add_searches, edge_run, ranked_circuit, ranked_run, scored_run, traced_run
from subcircuit.circuit import Circuit
from subcircuit.evaluation import Evidence, TokenEffects
from subcircuit.evaluation.comparison import Scored
from subcircuit.report import payload, report
from subcircuit.report.arrays import Arrays, Place, packed
from subcircuit.report.commands import commands
from subcircuit.report.edges import edge_list

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "src/subcircuit/report/static"


def unpacked(text: str) -> tuple[dict[str, Any], bytes]:
    """The header and the arrays behind it, as a browser opens them."""
    block = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(block[:4], "little")
    return json.loads(block[4 : 4 + length]), block[4 + length :]


def read(place: dict[str, Any], block: bytes) -> Any:
    count = int(np.prod(place["shape"]))
    return np.frombuffer(block, f"<{place['dtype']}", count, place["start"]).reshape(place["shape"])


def test_arrays_come_back_as_they_went_in_and_lie_where_typed_arrays_may_begin() -> None:
    arrays, whole = Arrays(), [np.arange(3), np.linspace(-1, 1, 10).reshape(2, 5), np.array([70_000])]
    places = [arrays.add(each, dtype) for each, dtype in zip(whole, ("u1", "f4", "u4"), strict=True)]  # type: ignore[arg-type]
    text = packed(Place(dtype="u1", shape=[1], start=0), arrays)
    header, block = unpacked(text)
    assert header == {"dtype": "u1", "shape": [1], "start": 0}
    assert all(place.start % 8 == 0 for place in places)
    for place, array in zip(places, whole, strict=True):
        assert np.allclose(read(place.model_dump(), block), array, atol=1e-7)
    assert text == packed(Place(dtype="u1", shape=[1], start=0), arrays)


def test_the_page_holds_all_scores_and_what_is_kept(tmp_path: Path) -> None:
    circuit = ranked_circuit(effects=True)
    html = report(str(ranked_run(tmp_path, effects=True)))
    found = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', html)
    assert found is not None
    header, block = unpacked(found[1])
    (run,) = header["runs"]
    for site, scores in circuit.scores.items():
        grid = run["grids"][str(site.kind)]
        assert np.array_equal(read(grid["scores"], block)[site.layer], scores.numpy())
        assert np.array_equal(read(grid["kept"], block)[site.layer], circuit.kept[site].numpy())
    assert run["lines"] == {"channel": ["channel", "head", "attn", "block"], "neuron": ["neuron", "mlp", "block"]}
    assert run["effects"] and run["verdict"] == ""
    assert "Not scored yet" in run["warnings"][0]


def test_the_policy_names_this_script_and_this_style_and_nothing_else(tmp_path: Path) -> None:
    html = report(str(ranked_run(tmp_path)))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None and "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy[1]
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b|\bsrc=|<script [^>]*src|@import|url\(", html)


def test_edges_beyond_the_most_are_the_weakest_and_never_the_circuits() -> None:
    edges = random_circuit(TABLE, n=60).edges
    assert edges is not None
    kept, arrays = int(edges.kept.sum()), Arrays()
    found = edge_list(edges, arrays, most=kept + 10)
    block = arrays.bytes()
    inside = read(found.kept.model_dump(), block) == 1
    scores = read(found.scores.model_dump(), block)
    assert (found.count, inside.sum(), found.total) == (kept + 10, kept, int(TABLE.allowed.sum()))
    rest = edges.scores[TABLE.allowed & ~edges.kept].abs().sort(descending=True).values
    assert np.allclose(np.sort(np.abs(scores[~inside])), np.sort(rest[:10].numpy()))
    writer, reader = (read(each.model_dump(), block) for each in (found.writer, found.reader))
    names = {TABLE.name(int(r), int(w)) for r, w in zip(reader[inside], writer[inside], strict=True)}
    assert names == set(edges.names())


def test_the_command_has_what_is_not_a_default_and_quotes_it() -> None:
    made = origin(
        task="my prompts.jsonl",
        task_options={"drop_bad": True, "path": "my prompts.jsonl"},
        settings={"kl": 0.3, "steps": 3, "rank": "magnitude"},
    )
    scored = Scored("runs/a b", Circuit({}, {}, made), None, None)
    (line,) = commands(scored, None)
    words = shlex.split(line)
    assert words[:7] == ["subcircuit", "find", "edge-attribution", "--model", made.model, "--task", "my prompts.jsonl"]
    assert ["--revision", made.revision] == words[7:9]
    assert "--drop-bad" in words and words[-2:] == ["--out", "runs/a b"]
    assert words[words.index("--steps") + 1] == "3"
    assert "--kl" not in words and "--rank" not in words


def test_of_a_circuit_made_by_hand_there_is_no_command(tmp_path: Path) -> None:
    content, _ = payload(str(ranked_run(tmp_path)))
    assert content.runs[0].commands == []


def test_effects_by_token_come_along_if_they_are_of_the_evidence(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    found = TokenEffects.load(run)
    (told,) = payload(str(run))[0].runs
    assert told.tokens == found and not any("tokens.json" in each for each in told.warnings)
    changed = [row.model_copy(update={"kl": row.kl + 1}) for row in found.prompts]
    found.model_copy(update={"prompts": changed}).save(run)
    (told,) = payload(str(run))[0].runs
    assert told.tokens is None and any("tokens.json" in each for each in told.warnings)


def test_a_causal_tracing_has_all_of_its_scored_sizes(tmp_path: Path) -> None:
    run = traced_run(tmp_path / "run")
    other = Evidence.load(run / "k-5").model_copy(update={"seed": 7})  # other prompts: not to be compared
    other.save(run / "k-5")
    (told,) = payload(str(run))[0].runs
    assert told.traced and [each.k for each in told.budgets] == [1, 3]
    for each in told.budgets:
        table, circuit = Evidence.load(run / f"k-{each.k}"), Circuit.load(run / f"k-{each.k}")
        assert each.circuit == table.circuit.effect and each.everything == table.empty.effect
        assert (each.attribution, each.integrated) == (table.attribution.effect, table.integrated.effect)
        assert each.random == [scores.effect for scores in table.random]
        assert set(each.nodes) == {str(node) for site in circuit.kept for node in circuit.nodes(site.kind)}
    assert not any("--full" in each for each in told.warnings)  # which is refused for it
    assert told.searches is None
    found = add_searches(run, "random")
    assert payload(str(run))[0].runs[0].searches == found


def test_the_verb_writes_beside_the_run_or_where_it_is_told(ask: Ask, tmp_path: Path) -> None:
    run, other = ranked_run(tmp_path / "run"), ranked_run(tmp_path / "other")
    answer = ask("report", run, "--json")
    assert answer.code == 0
    assert answer.json == {
        "file": str(run / "report.html"),
        "bytes": (run / "report.html").stat().st_size,
        "runs": [str(run)],
    }
    assert ask("report", run, other, "--out", tmp_path / "new" / "two.html").code == 0
    assert (tmp_path / "new" / "two.html").is_file()
    assert not list(tmp_path.rglob("*.part"))


def test_what_cannot_be_reported_is_told_with_its_cure(ask: Ask, tmp_path: Path) -> None:
    run = ranked_run(tmp_path / "run")
    assert ask("report", tmp_path / "nowhere").code == 3
    assert ask("report", run, run).code == 2
    assert ask("report", run, "--out", tmp_path).code == 2
    assert ask("report", run, edge_run(tmp_path / "edges")).code == 3  # models of two shapes
    (run / "evidence.json").write_text("{")
    answer = ask("report", run)
    assert answer.code == 3 and "subcircuit score" in answer.err
    (run / "evidence.json").unlink()
    (run / "scores.safetensors").unlink()
    assert "scores.safetensors is missing" in ask("report", run).err
    written = json.loads((run / "circuit.json").read_text())
    (run / "circuit.json").write_text(json.dumps({**written, "schema_version": 99}))
    assert "schema version 99" in ask("report", run).err
    assert not list(run.glob("report.html*"))


def test_the_built_files_are_of_these_sources() -> None:
    folder = ROOT / "viewer"
    if not folder.is_dir():
        pytest.skip("the sources of the viewer are not here")
    names = ["build.mjs", "package-lock.json"]
    names += [path.relative_to(folder).as_posix() for path in (folder / "src").rglob("*") if path.is_file()]
    stamp = hashlib.sha256()
    for name in sorted(names):
        stamp.update(f"{name}\n".encode() + (folder / name).read_bytes())
    for built in ("viewer.js", "viewer.css"):
        assert stamp.hexdigest() in (STATIC / built).read_text(encoding="utf-8")[:120], "run: make viewer"


def test_building_again_gives_the_same_files(tmp_path: Path) -> None:
    if not shutil.which("node") or not (ROOT / "viewer/node_modules").is_dir():
        pytest.skip("building the viewer needs Node and its packages: make viewer")
    subprocess.run(["node", str(ROOT / "viewer/build.mjs"), str(tmp_path)], check=True, capture_output=True)
    for built in ("viewer.js", "viewer.css"):
        assert (tmp_path / built).read_bytes() == (STATIC / built).read_bytes(), "run: make viewer"
