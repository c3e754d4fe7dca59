"""Draw a run's circuit as an SVG: kept heads and branches by layer, and how many neurons each layer keeps.

python scripts/make_picture.py runs/demo docs/images/demo.svg
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

CELL, GAP, LEFT, TOP = 18, 3, 74, 58
INK, FAINT, HEAD, NEURON = "#1b1f24", "#e4e7eb", "#0b6e99", "#c7621a"
TITLE = 'font-size="15" font-weight="600"'


def draw(circuit: dict[str, Any], evidence: dict[str, Any] | None) -> str:
    layers, heads = circuit["layers"], circuit["units"]["head"]
    kept = {tuple(int(part) for part in name.split(".")[::2]) for name in circuit["nodes"]["head"]}
    neurons = Counter(int(name.split(".")[0]) for name in circuit["nodes"]["neuron"])
    width = LEFT + layers * (CELL + GAP) + 20
    floor = TOP + heads * (CELL + GAP) + 96
    parts = [_text(12, 24, _title(circuit), INK, TITLE), _text(12, 43, _subtitle(circuit, evidence), "#57606a", "")]
    for layer in range(layers):
        x = LEFT + layer * (CELL + GAP)
        for head in range(heads):
            colour = HEAD if (layer, head) in kept else FAINT
            y = TOP + head * (CELL + GAP)
            name = f"{layer}.head.{head}" + (" (kept)" if (layer, head) in kept else "")
            parts.append(_rect(x, y, CELL, colour, name))
        tall = 60 * (neurons[layer] / max(neurons.values())) ** 0.5  # square root: small layers stay visible
        colour = NEURON if neurons[layer] else FAINT
        parts.append(_rect(x, floor - tall, max(tall, 1.0), colour, f"layer {layer}: {neurons[layer]} neurons"))
        if neurons[layer]:
            count = 'text-anchor="middle" font-size="9"'
            parts.append(_text(x + CELL / 2, floor - tall - 4, str(neurons[layer]), NEURON, count))
        parts.append(_text(x + CELL / 2, floor + 15, str(layer), "#57606a", 'text-anchor="middle" font-size="10"'))
    parts += [
        _text(12, TOP + 13, "heads", HEAD, 'font-weight="600"'),
        _text(12, floor - 4, "neurons", NEURON, 'font-weight="600"'),
        _text(12, floor + 15, "layer", "#57606a", 'font-size="10"'),
    ]
    body = "\n".join(parts)
    frame = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {floor + 26}" role="img"'
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    return f'<svg {frame} {font}><rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'


def _rect(x: float, y: float, height: float, colour: str, title: str) -> str:
    place = f'x="{x}" y="{y:.1f}" width="{CELL}" height="{height:.1f}" rx="3"'
    return f'<rect {place} fill="{colour}"><title>{title}</title></rect>'


def _title(circuit: dict[str, Any]) -> str:
    origin = circuit["origin"]
    return f"The circuit for {origin['task']} in {origin['model']}"


def _subtitle(circuit: dict[str, Any], evidence: dict[str, Any] | None) -> str:
    sizes = circuit["sizes"]
    words = [f"{sizes[k]['kept']}/{sizes[k]['total']} {k}s" for k in ("block", "head", "neuron")]
    if evidence:
        scores = evidence["circuit"]
        words.append(f"KL {scores['kl']['mean']:.2f}, accuracy {scores['accuracy']['mean']:.2f} on unseen prompts")
    return "  ·  ".join(words)


def _text(x: float, y: float, text: str, colour: str, style: str) -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" {style}>{text}</text>'


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    circuit = json.loads((run / "circuit.json").read_text())
    scored = run / "evidence.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(draw(circuit, json.loads(scored.read_text()) if scored.exists() else None))


if __name__ == "__main__":
    main()
