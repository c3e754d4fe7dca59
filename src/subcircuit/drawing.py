"""A circuit as an SVG: kept heads and MLPs by layer, and how many neurons each layer keeps. Imports no torch."""

from collections import Counter
from html import escape

from subcircuit.records import CircuitFile
from subcircuit.sites import Kind, Node, Site

__all__ = ["draw"]

CELL, GAP, LEFT, TOP, BARS = 18, 3, 74, 58, 60  # pixels
INK, SOFT, FAINT, HEAD, NEURON = "#1b1f24", "#57606a", "#e4e7eb", "#0b6e99", "#c7621a"
CENTRED = 'text-anchor="middle" font-size="{}"'


def draw(file: CircuitFile, note: str = "") -> str:
    """The picture as text; `note` joins the sizes below its title. Kinds that are not drawn are counted there."""
    heads = next((kind for kind in (Kind.HEAD, Kind.ATTN) if kind in file.units), None)
    rows = file.units[heads] if heads else 0
    floor = TOP + rows * (CELL + GAP) + (96 if Kind.NEURON in file.units else 40)
    width = max(LEFT + file.layers * (CELL + GAP) + 20, 420)
    parts = [
        _text(
            12,
            24,
            f"The circuit for {file.origin.task} in {file.origin.model}",
            INK,
            'font-size="15" font-weight="600"',
        ),
        _text(12, 43, "  ·  ".join([*_sizes(file), *([note] if note else [])]), SOFT),
        *(_grid(file, heads, TOP) if heads else []),
        *(_bars(file, floor) if Kind.NEURON in file.units else _grid(file, Kind.MLP, floor - CELL)),
        *(
            _text(_x(layer) + CELL / 2, floor + 15, str(layer), SOFT, CENTRED.format(10))
            for layer in range(file.layers)
        ),
        _text(12, floor + 15, "layer", SOFT, 'font-size="10"'),
    ]
    body = "\n".join(parts)
    frame = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {floor + 26}" width="{width}" role="img"'
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    return f'<svg {frame} {font}><rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'


def _grid(file: CircuitFile, kind: Kind, top: float) -> list[str]:
    """A cell per unit, layer by layer."""
    if kind not in file.units:
        return []
    kept = set(file.nodes[kind])
    found = [_text(12, top + 13, {Kind.HEAD: "heads"}.get(kind, kind.upper()), HEAD, 'font-weight="600"')]
    for layer in range(file.layers):
        for unit in range(file.units[kind]):
            name = str(Node(Site(layer, kind), unit))
            colour, told = (HEAD, f"{name} (kept)") if name in kept else (FAINT, name)
            found.append(_rect(_x(layer), top + unit * (CELL + GAP), CELL, colour, told))
    return found


def _bars(file: CircuitFile, floor: float) -> list[str]:
    """How many neurons each layer keeps."""
    count = Counter(Node.parse(name).site.layer for name in file.nodes[Kind.NEURON])
    found = [_text(12, floor - 4, "neurons", NEURON, 'font-weight="600"')]
    for layer in range(file.layers):
        tall = BARS * (count[layer] / max(count.values(), default=1)) ** 0.5  # square root: small layers stay visible
        colour = NEURON if count[layer] else FAINT
        found.append(_rect(_x(layer), floor - tall, max(tall, 1.0), colour, f"layer {layer}: {count[layer]} neurons"))
        if count[layer]:
            found.append(_text(_x(layer) + CELL / 2, floor - tall - 4, str(count[layer]), NEURON, CENTRED.format(9)))
    return found


def _sizes(file: CircuitFile) -> list[str]:
    wanted = [kind for kind in ("block", "head", "mlp", "neuron", "edge") if kind in file.sizes]
    return [f"{file.sizes[kind].kept}/{file.sizes[kind].total} {kind}s" for kind in wanted]


def _x(layer: int) -> int:
    return LEFT + layer * (CELL + GAP)


def _rect(x: float, y: float, height: float, colour: str, title: str) -> str:
    place = f'x="{x}" y="{y:.1f}" width="{CELL}" height="{height:.1f}" rx="3"'
    return f'<rect {place} fill="{colour}"><title>{escape(title)}</title></rect>'


def _text(x: float, y: float, text: str, colour: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" {style}>{escape(text)}</text>'
