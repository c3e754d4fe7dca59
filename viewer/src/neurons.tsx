// A row per layer, all of its neurons (or channels) along it. Where a pixel holds several, it shows the one of the
// largest score that is kept, or else of the largest. Drag, or press + and the arrows, to look closer.
import { useState } from "preact/hooks";
import { Canvas, type Draw, diverging, largest, spread } from "./canvas";
import { node, plural, signed, whole } from "./format";
import { dark, kept, order, run, study, words } from "./state";
import { Table, lazy } from "./table";

const MARGIN = 44;
const NARROWEST = 16; // units that a row shows at the closest
const LISTED = 400;

interface View { kind: string; from: number; to: number }

export function Neurons() {
  const kinds = ["neuron", "channel", "mlp_out"].filter((kind) => run.value.grids[kind]);
  const [view, setView] = useState<View | null>(null);
  const [drag, setDrag] = useState<[number, number] | null>(null);
  const [spot, setSpot] = useState<{ layer: number; unit: number } | null>(null);
  if (!kinds.length) return null;
  const kind = view && kinds.includes(view.kind) ? view.kind : kinds[0];
  const units = run.value.units[kind];
  const { from, to } = view?.kind === kind && view.to <= units ? view : { from: 0, to: units };
  const look = (start: number, end: number): void => {
    const wide = Math.min(units, Math.max(NARROWEST, Math.round(end - start)));
    const first = Math.max(0, Math.min(units - wide, Math.round(start)));
    setView({ kind, from: first, to: first + wide });
  };
  const zoom = (factor: number): void => {
    const [middle, half] = [(from + to) / 2, ((to - from) * factor) / 2];
    look(middle - half, middle + half);
  };
  const keys: Record<string, () => void> = {
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "0": () => look(0, units),
    ArrowLeft: () => look(from - (to - from) / 4, to - (to - from) / 4), ArrowRight: () => look(from + (to - from) / 4, to + (to - from) / 4),
  };
  const unitAt = (x: number, width: number): number => from + ((x - MARGIN) / (width - MARGIN)) * (to - from);
  const point = (x: number, y: number, event: PointerEvent): void => {
    const width = (event.currentTarget as HTMLElement).clientWidth;
    const [layer, unit] = [Math.floor(y / rowHeight(run.value.layers)), unitAt(x, width)];
    setSpot(layer < run.value.layers && x >= MARGIN ? { layer, unit: strongest(kind, layer, unit, (to - from) / (width - MARGIN)) } : null);
    if (event.type === "pointerdown" && x >= MARGIN) setDrag([unit, unit]);
    else if (drag) setDrag([drag[0], unit]);
  };
  const drop = (): void => {
    if (drag && Math.abs(drag[1] - drag[0]) > (to - from) / 50) look(Math.min(...drag), Math.max(...drag));
    setDrag(null);
  };
  return (
    <figure>
      <figcaption>
        <h2>Down to single {plural(kind)}</h2>
        <p>A row per layer. Coloured are those that are {words.value.in}, by score; the others are grey. Drag over a stretch to look closer.</p>
      </figcaption>
      <div class="tools">
        {kinds.length > 1 && <span class="choice" role="group" aria-label="Kind">{kinds.map((each) => <button type="button" class={each === kind ? "on" : ""} aria-pressed={each === kind} onClick={() => setView({ kind: each, from: 0, to: run.value.units[each] })}>{plural(each)}</button>)}</span>}
        <span class="choice"><button type="button" aria-label="Closer" onClick={() => zoom(0.5)}>+</button><button type="button" aria-label="Farther" onClick={() => zoom(2)}>−</button><button type="button" onClick={() => look(0, units)}>All</button></span>
        <span class="soft" id="stretch">{whole(from)} – {whole(to - 1)} of {whole(units)}</span>
      </div>
      <Canvas label={`Scores of ${plural(kind)} by layer. Plus, minus and the arrow keys zoom and move.`} id="neurons" class="grab"
        height={() => run.value.layers * rowHeight(run.value.layers) + 4} paint={painted(kind, from, to, drag)} onPlace={point}
        onPointerUp={drop} onPointerLeave={() => { setSpot(null); setDrag(null); }}
        onKeyDown={(event) => { if (keys[event.key]) { event.preventDefault(); keys[event.key](); } }} />
      <p class="focus">{spot ? <About kind={kind} {...spot} /> : <span class="soft">Point at the rows to read single {plural(kind)}.</span>}</p>
      <UnitTable kind={kind} />
    </figure>
  );
}

const rowHeight = (layers: number): number => (layers <= 16 ? 14 : layers <= 40 ? 10 : 6);

// Of the units under one pixel, the one that is drawn.
function strongest(kind: string, layer: number, unit: number, perPixel: number): number {
  const { units } = run.value;
  const first = Math.max(0, Math.min(units[kind] - 1, Math.floor(unit)));
  const last = Math.min(units[kind], first + Math.max(1, Math.ceil(perPixel)));
  const scores = study.value.scores[kind];
  let best = first;
  for (let at = first; at < last; at++) {
    const [here, there] = [at, best].map((each) => layer * units[kind] + each);
    const gain = Number(kept.value.has(kind, here)) - Number(kept.value.has(kind, there));
    if (gain > 0 || (gain === 0 && Math.abs(scores[here]) > Math.abs(scores[there]))) best = at;
  }
  return best;
}

function painted(kind: string, from: number, to: number, drag: [number, number] | null): Draw {
  const { layers, units } = run.value;
  const scores = study.value.scores[kind];
  const most = largest(scores);
  const [members, night, high] = [kept.value, dark.value, rowHeight(layers)];
  return (pen, width, colours) => {
    const columns = Math.max(1, Math.min(width - MARGIN, to - from));
    const wide = (width - MARGIN) / columns;
    pen.clearRect(0, 0, width, layers * high + 4);
    pen.font = "11px system-ui, sans-serif";
    for (let layer = 0; layer < layers; layer++) {
      const y = layer * high;
      pen.fillStyle = colours.pruned;
      pen.globalAlpha = 0.55;
      pen.fillRect(MARGIN, y, width - MARGIN, high - 1);
      pen.globalAlpha = 1;
      for (let column = 0; column < columns; column++) {
        const [start, end] = [column, column + 1].map((each) => layer * units[kind] + from + Math.floor((each * (to - from)) / columns));
        let best = NaN;
        for (let at = start; at < end; at++) if (members.has(kind, at) && !(Math.abs(scores[at]) <= Math.abs(best))) best = scores[at];
        if (Number.isNaN(best)) continue;
        pen.fillStyle = diverging(away(spread(best, most)), night);
        pen.fillRect(MARGIN + column * wide, y, Math.max(1, wide), high - 1);
      }
      if (layer % (high >= 13 ? 1 : high >= 10 ? 2 : 5) === 0) {
        pen.fillStyle = colours.soft;
        pen.textAlign = "right";
        pen.fillText(String(layer), MARGIN - 8, y + high / 2 + 3);
      }
    }
    if (drag) {
      const [start, end] = [...drag].sort((a, b) => a - b).map((unit) => MARGIN + ((unit - from) / (to - from)) * (width - MARGIN));
      pen.globalAlpha = 0.2;
      pen.fillStyle = colours.ink;
      pen.fillRect(start, 0, end - start, layers * high);
      pen.globalAlpha = 1;
    }
  };
}

// Away from the scale's middle, which looks like nothing: a kept neuron is to be seen, however small its score.
const away = (value: number): number => (value < 0 ? -1 : 1) * (0.3 + 0.7 * Math.abs(value));

function About({ kind, layer, unit }: { kind: string; layer: number; unit: number }) {
  const at = layer * run.value.units[kind] + unit;
  return <><b>{node(kind, layer, unit, run.value.units[kind])}</b> <span>score {signed(study.value.scores[kind][at])}</span> <span>{kept.value.has(kind, at) ? words.value.in : words.value.out}</span></>;
}

function UnitTable({ kind }: { kind: string }) {
  const ranks = study.value.ranks(order.value).rank[kind];
  if (!ranks) return null;
  const scores = study.value.scores[kind];
  const units = run.value.units[kind];
  const { value: members } = kept;
  const inside = lazy(() => {
    const places: number[] = [];
    for (let at = 0; at < scores.length; at++) if (members.has(kind, at)) places.push(at);
    return places.sort((a, b) => ranks[a] - ranks[b]);
  });
  return (
    <Table summary={`${words.value.in === "kept" ? "Kept" : "Replaced"} ${plural(kind)} as a table`} columns={[{ name: "node", text: true }, { name: "score" }]} count={() => Math.min(LISTED, inside().length)}
      row={(at) => {
        const place = inside()[at];
        return [node(kind, Math.floor(place / units), place % units, units), signed(scores[place])];
      }} />
  );
}
