// The whole model at a glance: a column per layer, a cell per head, and the MLP below. Arrow keys walk over it.
import { useState } from "preact/hooks";
import { Canvas, type Draw, diverging, largest, spread } from "./canvas";
import { node, number, percent, signed } from "./format";
import { dark, kept, run, study, words } from "./state";
import { Table, lazy } from "./table";

const GAP = 2;
const MARGIN = 44;

interface Spot { layer: number; row: number } // the last row is the MLP

export function Overview() {
  const [spot, setSpot] = useState<Spot | null>(null);
  const { layers, units, grids } = run.value;
  const heads = grids.head ? units.head : grids.attn ? 1 : 0;
  const rows = heads + 1;
  const shape = (width: number): { wide: number; tall: number } => {
    const wide = (width - MARGIN) / layers;
    return { wide, tall: Math.max(7, Math.min(wide, 26, 560 / rows)) };
  };
  const find = (x: number, y: number, width: number): Spot | null => {
    const { wide, tall } = shape(width);
    const layer = Math.floor((x - MARGIN) / wide);
    const row = y > rows * tall + 8 ? -1 : y >= heads * tall + 8 ? heads : Math.floor(y / tall);
    return layer >= 0 && layer < layers && row >= 0 && row <= heads ? { layer, row: Math.min(row, heads) } : null;
  };
  const walk = (event: KeyboardEvent): void => {
    const steps: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const from = spot ?? { layer: -step[0], row: -step[1] };
    setSpot({ layer: clamp(from.layer + step[0], layers), row: clamp(from.row + step[1], rows) });
  };
  return (
    <figure>
      <figcaption>
        <h2>The circuit in the model</h2>
        <p>Heads by layer, the MLPs below them. Colour is the score, grey is {words.value.out}, hatched was not tested; the bar in a cell is the share of its channels or neurons that is {words.value.in}.</p>
        <Legend />
      </figcaption>
      <Canvas label="Heads and MLPs by layer. Arrow keys move between nodes; the line below tells of the one in focus." id="overview"
        height={(width) => rows * shape(width).tall + 8 + 20} paint={painted(heads, shape, spot)}
        onPlace={(x, y, event) => setSpot(find(x, y, (event.currentTarget as HTMLElement).clientWidth))}
        onKeyDown={walk} onPointerLeave={() => setSpot(null)} />
      <p class="focus" id="focus" aria-live="polite">{spot ? <About spot={spot} heads={heads} /> : <span class="soft">Point at a node, or walk over them with the arrow keys.</span>}</p>
      <NodeTable />
    </figure>
  );
}

const clamp = (value: number, count: number): number => Math.max(0, Math.min(count - 1, value));

// The kind that stands for a cell, and its place in that kind's table.
function cell({ layer, row }: Spot, heads: number): [string, number] {
  const { grids, units } = run.value;
  if (row === heads) return [grids.mlp ? "mlp" : "neuron", layer];
  return grids.head ? ["head", layer * units.head + row] : ["attn", layer];
}

// The share of a node's own channels or neurons that is in; null where the circuit has none of them.
function share({ layer, row }: Spot, heads: number): number | null {
  const { grids, units } = run.value;
  const inner = row === heads ? "neuron" : "channel";
  if (!grids[inner]) return null;
  const count = row === heads ? units.neuron : units.channel / heads;
  const start = row === heads ? layer * count : layer * units.channel + row * count;
  return kept.value.count(inner, start, start + count) / count;
}

function painted(heads: number, shape: (width: number) => { wide: number; tall: number }, spot: Spot | null): Draw {
  const { run: about, scores } = study.value;
  const most = Object.fromEntries(Object.entries(scores).map(([kind, values]) => [kind, largest(values)]));
  const [members, night] = [kept.value, dark.value];
  return (pen, width, colours) => {
    const { wide, tall } = shape(width);
    pen.clearRect(0, 0, width, (heads + 1) * tall + 40);
    pen.font = "11px system-ui, sans-serif";
    for (let layer = 0; layer < about.layers; layer++) {
      for (let row = 0; row <= heads; row++) {
        const [kind, at] = cell({ layer, row }, heads);
        const [x, y] = [MARGIN + layer * wide, row * tall + (row === heads ? 8 : 0)];
        const box: Box = [x, y, Math.max(1, wide - GAP), Math.max(1, tall - GAP)];
        const inside = scores[kind] && about.grids[kind] ? members.has(kind, at) : share({ layer, row }, heads)! > 0;
        if (!about.grids[kind] && !about.grids.neuron) hatch(pen, box, colours.soft);
        else paint(pen, box, inside ? diverging(spread(scores[kind]?.[at] ?? 0, most[kind] ?? 1), night) : colours.pruned, inside ? colours.soft : "");
        const strong = Math.abs(spread(scores[kind]?.[at] ?? 0, most[kind] ?? 1)) > 0.45;
        if (inside && tall >= 12) bar(pen, box, share({ layer, row }, heads), strong ? colours.paper : colours.ink);
        if (spot && spot.layer === layer && spot.row === row) ring(pen, box, colours.ink);
      }
      if (wide > 15 || layer % Math.ceil(18 / wide) === 0) text(pen, String(layer), MARGIN + layer * wide + (wide - GAP) / 2, (heads + 1) * tall + 22, colours.soft, "center");
    }
    text(pen, "heads", 0, Math.min(11, tall), colours.soft, "left");
    text(pen, "MLP", 0, heads * tall + 8 + tall / 2 + 3, colours.soft, "left");
    text(pen, "layer", 0, (heads + 1) * tall + 22, colours.soft, "left");
  };
}

type Box = [number, number, number, number];

function paint(pen: CanvasRenderingContext2D, [x, y, w, h]: Box, fill: string, edge: string): void {
  pen.fillStyle = fill;
  pen.beginPath();
  pen.roundRect(x, y, w, h, Math.min(3, h / 4));
  pen.fill();
  if (!edge) return;
  pen.globalAlpha = 0.45;
  pen.strokeStyle = edge;
  pen.lineWidth = 1;
  pen.stroke();
  pen.globalAlpha = 1;
}

function bar(pen: CanvasRenderingContext2D, [x, y, w, h]: Box, share: number | null, ink: string): void {
  if (share === null || w < 8) return;
  pen.globalAlpha = 0.9;
  pen.fillStyle = ink;
  pen.fillRect(x + 3, y + h - 5, Math.max(1, (w - 6) * share), 2);
  pen.globalAlpha = 1;
}

function ring(pen: CanvasRenderingContext2D, [x, y, w, h]: Box, ink: string): void {
  pen.strokeStyle = ink;
  pen.lineWidth = 2;
  pen.strokeRect(x - 1, y - 1, w + 2, h + 2);
}

function hatch(pen: CanvasRenderingContext2D, [x, y, w, h]: Box, line: string): void {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, w, h);
  pen.clip();
  pen.strokeStyle = line;
  pen.globalAlpha = 0.35;
  pen.lineWidth = 1;
  for (let at = -h; at < w; at += 5) {
    pen.beginPath();
    pen.moveTo(x + at, y + h);
    pen.lineTo(x + at + h, y);
    pen.stroke();
  }
  pen.restore();
}

function text(pen: CanvasRenderingContext2D, words: string, x: number, y: number, fill: string, align: CanvasTextAlign): void {
  pen.fillStyle = fill;
  pen.textAlign = align;
  pen.fillText(words, x, y);
}

function About({ spot, heads }: { spot: Spot; heads: number }) {
  const { grids, units } = run.value;
  const [kind, at] = cell(spot, heads);
  const name = node(kind, spot.layer, spot.row, kind === "head" ? units.head : 1);
  if (!grids[kind]) return <><b>{name}</b> <span>is not scored in this circuit</span></>;
  const inner = share(spot, heads);
  return (
    <>
      <b>{name}</b> <span>score {signed(study.value.scores[kind][at])}</span> <span>{kept.value.has(kind, at) ? words.value.in : words.value.out}</span>
      {inner !== null && <span>{percent(inner)} of its {spot.row === heads ? "neurons" : "channels"} {words.value.in}</span>}
    </>
  );
}

function Legend() {
  const kind = run.value.grids.head ? "head" : "mlp";
  const values = study.value.scores[kind];
  const most = values ? largest(values) : 0;
  const stops = [-1, -0.6, -0.2, 0.2, 0.6, 1].map((at) => diverging(at, dark.value)).join(", ");
  return (
    <p class="legend">
      <span>−{number(most)}</span> <i style={{ background: `linear-gradient(90deg, ${stops})` }} /> <span>+{number(most)}</span>
      <span class="unit">score of {kind === "head" ? "a head" : "an MLP"}{run.value.traced ? ": what replacing it does, to first order" : run.value.effects ? ": its effect on the objective" : "; higher is more needed"}</span>
      <span><b class="swatch" /> {words.value.out}</span>
    </p>
  );
}

function NodeTable() {
  const { grids, units } = run.value;
  const kind = grids.head ? "head" : "mlp";
  if (!grids[kind]) return null;
  const scores = study.value.scores[kind];
  const { value: members } = kept;
  const rows = lazy(() => Array.from(scores.keys()).sort((a, b) => Number(members.has(kind, b)) - Number(members.has(kind, a)) || Math.abs(scores[b]) - Math.abs(scores[a])));
  return (
    <Table summary={`${kind === "head" ? "Heads" : "MLPs"} as a table`} columns={[{ name: "node", text: true }, { name: "score" }, { name: "", text: true }]} count={() => rows().length}
      row={(at) => {
        const place = rows()[at];
        return [node(kind, Math.floor(place / units[kind]), place % units[kind], units[kind]), signed(scores[place]), members.has(kind, place) ? words.value.in : words.value.out];
      }} />
  );
}

