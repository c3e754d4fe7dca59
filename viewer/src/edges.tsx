// Which node writes to which: layers from left to right, the residual stream between them. Drawn on a canvas, as there
// are thousands; the strongest also stand in a table. A node in focus shows its own edges only.
import { useState } from "preact/hooks";
import { Canvas, type Draw, diverging, largest, spread } from "./canvas";
import { percent, signed, whole } from "./format";
import { dark, kept, order, run, size, study } from "./state";
import { Table } from "./table";

const DRAWN = 20_000;
const LISTED = 400;
const MARGIN = 26;

// Where a writer or a reader stands: its column, and its place in it from 0 to 1. A layer has two columns, heads and MLP.
function place(name: string, layers: number, heads: number, groups: number): [number, number] {
  if (name === "input") return [0, 0.5];
  if (name === "logits") return [2 * layers + 1, 0.5];
  const [layer, kind, unit] = name.split(".");
  if (kind === "mlp") return [2 + 2 * Number(layer), 0.94];
  const head = kind === "k" || kind === "v" ? (Number(unit) + 0.5) * (heads / groups) - 0.5 : Number(unit);
  return [1 + 2 * Number(layer), 0.06 + (0.8 * (head + 0.5)) / heads];
}

// The head or MLP that a reader belongs to; keys and values belong to all heads of their group, and stand for themselves.
const owner = (reader: string): string => reader.replace(".q.", ".head.");

export function Edges() {
  const [focus, setFocus] = useState<string | null>(null);
  const { edges: list, layers, units } = run.value;
  if (!list) return null;
  const { writer, reader } = study.value.edges!;
  const heads = units.head;
  const groups = new Set(list.readers.filter((each) => each.startsWith("0.k."))).size;
  const at = (name: string): [number, number] => place(name, layers, heads, groups);
  const names = list.writers;
  const owners = list.readers.map(owner);
  const inside = top();
  const from = focus ? names.indexOf(focus) : -1;
  const shown = focus ? inside.filter((edge) => writer[edge] === from || owners[reader[edge]] === focus) : inside;
  const out = focus ? shown.reduce((count, edge) => count + Number(writer[edge] === from), 0) : 0;
  const step = (event: KeyboardEvent): void => {
    const by = { ArrowRight: heads + 1, ArrowLeft: -heads - 1, ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") setFocus(null);
    if (by === undefined) return;
    event.preventDefault();
    setFocus(names[Math.max(0, Math.min(names.length - 1, (focus ? names.indexOf(focus) : 0) + by))]);
  };
  const nearest = (x: number, y: number, event: PointerEvent): void => {
    const element = event.currentTarget as HTMLElement;
    const far = (name: string): number => Math.hypot(...spotAt(at(name), element.clientWidth, element.clientHeight, layers).map((part, axis) => part - [x, y][axis]));
    const best = names.reduce((a, b) => (far(b) < far(a) ? b : a));
    if (event.type === "pointerdown" || event.pointerType === "mouse") setFocus(far(best) < 14 ? best : null);
  };
  return (
    <figure>
      <figcaption>
        <h2>Edges</h2>
        <p>What each head and MLP hands on, from the embeddings at the left to the logits at the right. Blue and orange are the sign of the score, strength is its size.{list.count < list.total && ` The ${whole(list.count)} edges of the largest scores are in this file, of ${whole(list.total)}.`}</p>
      </figcaption>
      <Canvas label="Edges between heads and MLPs. Arrow keys choose a node, Escape lets it go; the table has the strongest." id="edges"
        height={(width) => Math.max(280, Math.min(520, width * 0.45))} paint={painted(shown, at, focus)} onPlace={nearest} onKeyDown={step} onPointerLeave={() => setFocus(null)} />
      <p class="focus" aria-live="polite">{focus ? <><b>{focus}</b> <span>{whole(out)} edges out</span> <span>{whole(shown.length - out)} in</span></> : <span class="soft">{whole(inside.length)} edges ({percent(inside.length / list.total)}){inside.length > DRAWN && `; the strongest ${whole(DRAWN)} are drawn`}. Point at a node to see its own.</span>}</p>
      <Table summary="Strongest edges as a table" columns={[{ name: "from", text: true }, { name: "to", text: true }, { name: "score" }]} count={Math.min(LISTED, shown.length)}
        row={(row) => [list.writers[writer[shown[row]]], list.readers[reader[shown[row]]], signed(study.value.scores.edge[shown[row]])]} />
    </figure>
  );
}

// Edges of the circuit at this size, strongest first: typed arrays throughout, as there may be millions.
function top(): Uint32Array {
  const { first } = study.value.ranks(order.value);
  const { value: members } = kept;
  return size.value === null ? first.filter((edge) => members.has("edge", edge)) : first.subarray(0, size.value);
}

function spotAt([column, along]: [number, number], width: number, height: number, layers: number): [number, number] {
  return [MARGIN + (column / (2 * layers + 1)) * (width - 2 * MARGIN), 8 + along * (height - 34)];
}

function painted(shown: Uint32Array, at: (name: string) => [number, number], focus: string | null): Draw {
  const { edges: list, layers } = run.value;
  const { writer, reader } = study.value.edges!;
  const scores = study.value.scores.edge;
  const [most, night] = [largest(scores), dark.value];
  return (pen, width, colours) => {
    const height = pen.canvas.clientHeight;
    const [from, to] = [list!.writers, list!.readers].map((names) => names.map((name) => spotAt(at(name), width, height, layers)));
    pen.clearRect(0, 0, width, height);
    for (const edge of shown.slice(0, DRAWN).reverse()) {
      const strength = spread(scores[edge], most);
      const [[x, y], [u, v]] = [from[writer[edge]], to[reader[edge]]];
      pen.globalAlpha = Math.min(1, (focus ? 0.25 : 0.09) + 0.9 * Math.abs(strength));
      pen.strokeStyle = diverging(Math.sign(strength) * (0.5 + 0.5 * Math.abs(strength)), night);
      pen.lineWidth = 0.5 + 3 * Math.abs(strength);
      pen.beginPath();
      pen.moveTo(x, y);
      pen.bezierCurveTo(x + (u - x) * 0.4, y, u - (u - x) * 0.4, v, u, v);
      pen.stroke();
    }
    pen.globalAlpha = 1;
    const [sent, taken] = [new Uint8Array(list!.writers.length), new Uint8Array(list!.readers.length)];
    for (const edge of shown) sent[writer[edge]] = taken[reader[edge]] = 1;
    const used = new Set([...list!.writers.filter((_, at) => sent[at]), ...list!.readers.filter((_, at) => taken[at]).map(owner)]);
    list!.writers.forEach((name, index) => dot(pen, from[index], name === focus ? 5 : used.has(name) ? 2.6 : 1.2, used.has(name) ? colours.ink : colours.line));
    dot(pen, to.at(-1)!, 3, colours.ink);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colours.soft;
    pen.textAlign = "left";
    pen.fillText("heads", 0, spotAt([0, 0.06], width, height, layers)[1] - 2);
    pen.fillText("MLP", 0, spotAt([0, 0.94], width, height, layers)[1] + 16);
    pen.fillText("input", 0, from[0][1] - 10);
    pen.textAlign = "right";
    pen.fillText("logits", width, from[0][1] - 10);
    pen.textAlign = "center";
    for (let layer = 0; layer < layers; layer += Math.max(1, Math.ceil((24 * layers) / width))) pen.fillText(String(layer), spotAt([1.5 + 2 * layer, 0], width, height, layers)[0], height - 6);
  };
}

function dot(pen: CanvasRenderingContext2D, [x, y]: [number, number], radius: number, fill: string): void {
  pen.fillStyle = fill;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}
